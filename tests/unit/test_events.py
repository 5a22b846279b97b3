import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamd.config import Publish
from streamd.detections import Detection
from streamd.events import (
    SCHEMA_VERSION,
    Event,
    InferredFrame,
    PublishFilter,
    event_of,
    event_schema,
    parse_event,
)
from streamd.slots import TsSource

from .fakes import frame_meta

PERSON = Detection("person", 0, 0.91, (604.0, 211.5, 688.2, 430.0))
CAR = Detection("car", 2, 0.5, (0.0, 0.0, 10.0, 10.0))


def example_event(**changes: Any) -> Event:
    """The frame of the example in docs/events.md, but for `changes` of its metadata."""
    values: dict[str, Any] = {
        "session": 1763800000,
        "seq": 4711,
        "pts_s": 188.44,
        "capture_wall_ns": 1_763_800_123_456_999_999,
        "capture_ns": 1_000_000_000,
        "ready_ns": 1_003_500_000,
        "work_ns": 2_100_000,
        "ts_source": TsSource.RTCP,
        "width": 1920,
        "height": 1080,
    }
    frame = InferredFrame(
        frame_meta(**{**values, **changes}),
        detections=(PERSON,),
        taken_ns=1_009_500_000,
        infer_ns=17_300_000,
        model="yolo11n",
    )
    return event_of(frame, camera="gate", dropped=3, now_ns=1_026_900_000)


def test_an_event_has_the_fields_of_its_contract() -> None:
    fields = example_event().fields()
    data = json.loads(fields.pop("data"))
    assert fields == {
        "v": 1,
        "id": "gate:1763800000:4711",
        "camera": "gate",
        "seq": 4711,
        "ts": 1763800123456,
        "ts_source": "rtcp",
        "n": 1,
    }
    assert data == {
        "pts": 188.44,
        "width": 1920,
        "height": 1080,
        "model": "yolo11n",
        "dropped": 3,
        "latency_ms": {"decode": 2.1, "wait": 6.0, "infer": 17.3, "total": 26.9},
        "objects": [
            {
                "label": "person",
                "class_id": 0,
                "confidence": 0.91,
                "box": [604.0, 211.5, 688.2, 430.0],
            }
        ],
        "still": False,
    }


@pytest.mark.parametrize("source", TsSource)
def test_the_provenance_of_a_capture_time_is_told_by_name(source: TsSource) -> None:
    assert example_event(ts_source=source).ts_source in ("rtcp", "pts", "arrival")
    assert example_event(ts_source=source).ts_source == source.name.lower()


def test_a_stream_without_pts_gives_null() -> None:
    assert json.loads(example_event(pts_s=math.nan).fields()["data"])["pts"] is None


detections = st.lists(
    st.builds(
        Detection,
        label=st.text('a é"\\{\n☃', max_size=6),
        class_id=st.integers(0, 1000),
        confidence=st.floats(0, 1),
        box=st.tuples(*[st.floats(0, 10_000)] * 4),
    ),
    max_size=4,
).map(tuple)


@given(detections, st.none() | st.floats(0, 1e9), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_a_subscriber_reads_back_the_event_that_was_published(
    objects: tuple[Detection, ...], pts_s: float | None, seq: int
) -> None:
    meta = frame_meta(seq=seq, pts_s=math.nan if pts_s is None else pts_s)
    frame = InferredFrame(meta, objects, 5, 6, "m")
    event = event_of(frame, camera="north-2", dropped=0, now_ns=9)
    as_redis_tells_it = {
        key: value.decode() if isinstance(value, bytes) else str(value)
        for key, value in event.fields().items()
    }
    assert parse_event(as_redis_tells_it) == event


def entry(**changes: str | None) -> dict[str, str]:
    fields = {key: str(value) for key, value in example_event().fields().items()}
    fields["data"] = example_event().fields()["data"].decode()
    return {k: v for k, v in {**fields, **changes}.items() if v is not None}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        entry(data=None),
        entry(data="{"),
        entry(data="[]"),
        entry(data="{}"),
        entry(seq="many"),
        entry(n=None),
        entry(v="2"),
        {"kind": "camera", "state": "offline"},
    ],
)
def test_an_entry_that_is_no_event_is_a_value_error(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="not an event of schema version 1"):
        parse_event(fields)


def published(policy: Publish, *frames: tuple[Detection, ...]) -> list[bool]:
    wanted = PublishFilter(policy)
    return [wanted.wants(frame) for frame in frames]


MOVED = Detection("person", 0, 0.4, (0.0, 0.0, 5.0, 5.0))
FRAMES = [(), (PERSON,), (MOVED,), (CAR,), (CAR, PERSON), (PERSON, CAR), (), (), (CAR,)]


def test_all_publishes_every_inferred_frame() -> None:
    assert published(Publish.ALL, *FRAMES) == [True] * len(FRAMES)


def test_detections_publishes_frames_with_objects_and_the_first_empty_one_after_them() -> None:
    assert published(Publish.DETECTIONS, *FRAMES) == [
        *[True, True, True, True, True, True],
        *[True, False, True],
    ]


def test_changes_publishes_a_frame_whose_objects_are_others_than_before() -> None:
    assert published(Publish.CHANGES, *FRAMES) == [
        *[True, True, False, True, True, False],
        *[True, False, True],
    ]


@pytest.mark.parametrize("policy", Publish)
def test_the_first_frame_is_told_so_that_nothing_stays_seen_over_a_restart(policy: Publish) -> None:
    assert published(policy, (), ())[0]


def test_changes_counts_objects_of_a_label() -> None:
    assert published(Publish.CHANGES, (CAR,), (CAR, CAR), (CAR, CAR), (CAR,)) == [
        *[True, True, False, True],
    ]


def test_the_schema_names_every_field_of_an_event_and_requires_it() -> None:
    schema = event_schema()
    definitions = schema["$defs"]
    assert schema["$schema"].endswith("2020-12/schema")
    event = example_event()
    assert set(definitions["Event"]["required"]) == set(event.fields())
    data = json.loads(event.fields()["data"])
    # What came later than schema version 1 is not required: events of earlier releases hold.
    assert {*definitions["EventData"]["required"], "still"} == set(data)
    assert set(definitions["Latency"]["required"]) == set(data["latency_ms"])
    assert set(definitions["Detection"]["required"]) == set(data["objects"][0])


def test_the_published_schema_is_the_one_of_the_events() -> None:
    path = Path(__file__).parents[2] / "docs" / f"event.v{SCHEMA_VERSION}.schema.json"
    assert json.loads(path.read_text()) == event_schema(), f"streamd schema events > {path}"


def test_who_validates_by_the_first_schema_of_this_version_takes_todays_events() -> None:
    """Nothing was taken away, nothing changed its type, and what is new may be missing."""
    first = json.loads((Path(__file__).parent / "event.v1.first.schema.json").read_text())["$defs"]
    now = event_schema()["$defs"]
    assert first["Event"]["properties"]["v"] == now["Event"]["properties"]["v"]
    for name, definition in first.items():
        assert definition.get("additionalProperties", True), "new fields must be allowed"
        for field, kind in definition["properties"].items():
            assert now[name]["properties"][field] == kind, f"{name}.{field}"
        assert now[name]["required"] == definition["required"], name


def test_an_event_of_the_first_release_is_understood() -> None:
    event = example_event()
    fields = event.fields()
    data = json.loads(fields["data"])
    del data["still"]
    stored = {name: str(value) for name, value in {**fields, "data": json.dumps(data)}.items()}
    assert parse_event(stored) == event
