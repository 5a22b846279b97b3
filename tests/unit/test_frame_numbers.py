"""Pictures of H.264 that were lost whole, of the streams of many kinds of encoders."""

import io
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.clock import SystemClock
from streamd.ingest.access_units import AccessUnits, Packet, Picture
from streamd.ingest.decoder import Decoder
from streamd.ingest.frame_numbers import FrameNumbers
from streamd.scenes import Scene
from streamd.testing.clip import AccessUnit, Clip

START = b"\0\0\0\1"
FRAMES, GROUP = 120, 40
# What x264 is told, and the format of pixels.
ENCODERS = {
    "plain": ("bframes=0", "yuv420p"),
    "B-frames upon which none builds": ("bframes=2:b-adapt=0:b-pyramid=none", "yuv420p"),
    "B-frames upon which others build": ("bframes=5:b-adapt=0:b-pyramid=normal", "yuv420p"),
    "fields": ("bframes=2:tff=1", "yuv420p"),
    "slices": ("bframes=0:slices=4", "yuv420p"),
    "refreshed part by part": ("bframes=0:intra-refresh=1", "yuv420p"),
    "scaling lists": ("cqm=jvt", "yuv420p"),
    "no subsampling": ("bframes=1", "yuv444p"),
    "ten bits": ("bframes=1", "yuv420p10le"),
    "open groups": ("open-gop=1:bframes=3", "yuv420p"),
    "many references": ("ref=16:bframes=3:b-adapt=0", "yuv420p"),
}


def write(path: Path, options: str, pixels: str) -> Clip:
    scene = Scene(3, 160, 96, fps=15)
    with av.open(str(path), "w") as container:
        how = {"preset": "veryfast", "g": str(GROUP), "x264-params": options}
        stream = container.add_stream("libx264", rate=15, options=how)
        stream.width, stream.height, stream.pix_fmt = 160, 96, pixels
        for at in range(FRAMES):
            picture = av.VideoFrame.from_ndarray(scene.frame(at)[0], format="rgb24")
            container.mux(stream.encode(picture.reformat(format=pixels)))
        container.mux(stream.encode(None))
    return Clip.open(path)


def annex_b(nals: tuple[bytes, ...]) -> bytes:
    return b"".join(START + nal for nal in nals)


def others_build_upon(unit: AccessUnit) -> bool:
    return any(nal[0] & 0x60 and nal[0] & 0x1F in (1, 5) for nal in unit.nals)


def told(clip: Clip, missing: int | None = None) -> list[int]:
    """The pictures of which it is told that one is missing before them."""
    numbers = FrameNumbers(annex_b(clip.parameter_sets))
    return [
        at
        for at, unit in enumerate(clip.units)
        if at != missing and numbers.lost_before(annex_b(unit.nals))
    ]


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_lost_picture_is_told_where_others_build_upon_it_and_only_there(
    kind: str, tmp_path: Path
) -> None:
    clip = write(tmp_path / "clip.mkv", *ENCODERS[kind])
    assert len(clip.units) == FRAMES
    assert told(clip) == []
    for missing in range(GROUP + 1, GROUP + 20):
        lost = told(clip, missing)
        if others_build_upon(clip.units[missing]):
            # Of pictures upon which none builds each tells it, up to the next one of the others.
            assert lost[0] == missing + 1
            assert [at for at in lost[:-1] if others_build_upon(clip.units[at])] == []
        else:
            assert lost == []


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return write(tmp_path_factory.mktemp("clip") / "plain.mkv", *ENCODERS["plain"])


def test_a_lost_keyframe_is_told_by_the_picture_after_it(plain: Clip) -> None:
    assert told(plain, 2 * GROUP) == [2 * GROUP + 1]


def test_the_parameters_may_come_beside_the_stream_or_within_it(plain: Clip) -> None:
    within = FrameNumbers()
    found = [within.lost_before(annex_b(unit.nals)) for unit in plain.units if unit.keyframe]
    assert found == [False] * 3
    assert told(plain, 50) == [51]
    assert not any(FrameNumbers().lost_before(annex_b(u.nals[-1:])) for u in plain.units[::2])


def test_who_counts_in_another_way_is_never_believed(plain: Clip) -> None:
    numbers = FrameNumbers(annex_b(plain.parameter_sets))
    every_third_left_out = [unit for at, unit in enumerate(plain.units * 3) if at % 3]
    assert not any(numbers.lost_before(annex_b(unit.nals)) for unit in every_third_left_out)


def test_what_builds_upon_a_lost_picture_is_damage_up_to_the_next_keyframe(plain: Clip) -> None:
    missing, next_key = GROUP + 20, 2 * GROUP
    units = AccessUnits("h264", annex_b(plain.parameter_sets))
    pictures: list[Picture] = []
    for at, unit in enumerate(plain.units):
        if at != missing:
            piece = cast("Packet", av.Packet(annex_b(unit.nals)))
            piece.pts, piece.time_base = at, Fraction(1, 15)
            pictures += units.add(piece)
    pictures += units.rest()
    with av.open(io.BytesIO(annex_b(plain.units[0].nals)), format="h264") as container:
        decoder = Decoder(container.streams.video[0], SystemClock())
        found = [decoder.decode(picture) for picture in pictures]
    positions = [frame.image.pts for one in found for frame in one.frames]
    assert positions == [*range(missing), *range(next_key, FRAMES)]
    assert sum(one.damaged for one in found) == next_key - missing - 1


@pytest.mark.parametrize("leaves_out", [True, False])
def test_encoders_that_leave_numbers_out_say_so(plain: Clip, leaves_out: bool) -> None:
    # Baseline profile, its level, id 0, numbers of 4 bits, order of kind 2, four references.
    fields = ("01000010", "00000000", "00011110", "1", "1", "011", "00101", str(int(leaves_out)))
    said = int("".join(fields).ljust(40, "0"), 2).to_bytes(5, "big")
    numbers = FrameNumbers(annex_b((b"\x67" + said, plain.parameter_sets[1])))
    slices = [unit.nals[-1:] for at, unit in enumerate(plain.units) if at != 35]
    assert any(numbers.lost_before(annex_b(nals)) for nals in slices) is not leaves_out


@given(
    st.lists(st.tuples(st.sampled_from([1, 5, 7, 8, 0x41, 0x67, 0x68]), st.binary()), max_size=20)
)
def test_whatever_comes_is_no_error(units: list[tuple[int, bytes]]) -> None:
    numbers = FrameNumbers()
    for kind, data in units:
        assert not numbers.lost_before(START + bytes([kind]) + data)
