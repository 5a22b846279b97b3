"""Pictures joined from pieces, as FFmpeg takes them out of RTP packets."""

import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamd.clock import SystemClock
from streamd.demo.clips import write_clip
from streamd.ingest.access_units import AccessUnits, Packet, Picture
from streamd.ingest.decoder import Decoder
from streamd.scenes import Scene
from streamd.testing.clip import AccessUnit, Clip

from .fakes import FakeClock

START = b"\0\0\0\1"
MTU = 1400
Image = NDArray[np.uint8]
SLICE, KEY, SPS, SEI = b"\x41", b"\x65", b"\x67", b"\x06"
FILLER = b"\x0c\xff"


@dataclass(frozen=True)
class Piece:
    data: bytes
    pts: int

    def packet(self) -> Packet:
        packet = cast("Packet", av.Packet(self.data))
        packet.pts = packet.dts = self.pts
        packet.time_base = Fraction(1, 90000)
        return packet


def cut(nal: bytes, header: int = 1, mtu: int = MTU) -> list[bytes]:
    """A NAL unit as FFmpeg's depacketizer gives it: its fragments, the first with the header."""
    if len(nal) <= mtu:
        return [START + nal]
    size = mtu - 1 - header
    parts = [nal[at : at + size] for at in range(header, len(nal), size)]
    return [START + nal[:header] + parts[0], *parts[1:]]


def pieces(nals: Sequence[bytes], pts: int, header: int = 1) -> list[Piece]:
    return [Piece(data, pts) for nal in nals for data in cut(nal, header)]


def picture(*sizes: int, key: bool = False) -> list[bytes]:
    """A picture of slices of these sizes."""
    head = [SPS + bytes(10)] if key else []
    kind = KEY if key else SLICE
    # A first byte of 0x9a says that it is the first slice of its picture, 0x1a that it is not.
    slices = [
        kind + (b"\x1a" if n else b"\x9a") + b"\x9a" * (size - 2) for n, size in enumerate(sizes)
    ]
    return [*head, *slices]


def fed(units: AccessUnits, stream: Sequence[Piece]) -> Iterator[tuple[int, Picture]]:
    """The pictures, each with the number of the piece that completed it."""
    for number, piece in enumerate(stream):
        for given_picture in units.add(piece.packet()):
            yield number, given_picture
    for given_picture in units.rest():
        yield len(stream), given_picture


def joined(units: AccessUnits, stream: Sequence[Piece]) -> list[Picture]:
    return [one for _, one in fed(units, stream)]


def stream_of(pictures: Sequence[Sequence[bytes]]) -> list[Piece]:
    return [piece for at, nals in enumerate(pictures) for piece in pieces(nals, at * 3600)]


def annex_b(nals: Sequence[bytes]) -> bytes:
    return b"".join(START + nal for nal in nals)


STEADY = [picture(5000 if at % 10 == 0 else 2000, key=at % 10 == 0) for at in range(60)]


def test_once_the_rule_has_shown_itself_pictures_are_given_with_their_last_piece() -> None:
    stream = stream_of(STEADY)
    lasts = [i for i, (a, b) in enumerate(itertools.pairwise(stream)) if a.pts != b.pts]
    given_at = {one.pts: number for number, one in fed(AccessUnits("h264"), stream)}
    late = [given_at[stream[last].pts] - last for last in lasts]
    assert late[:30] == [1] * 30
    assert late[32:] == [0] * len(late[32:])


@pytest.mark.parametrize(
    ("nals", "codec", "disposable"),
    [
        ([b"\x01\x9a", b"\x01\x1a"], "h264", True),
        ([SEI + bytes([4, 1, 2]), b"\x01\x9a"], "h264", True),
        ([SLICE + b"\x9a"], "h264", False),
        ([SPS + bytes(10), KEY + b"\x9a"], "h264", False),
        ([SEI + b"\1" * 3000, b"\x01\x9a"], "h264", False),  # too far away to be looked for
        ([b"\x00\x01\x9a"], "hevc", False),  # TRAIL_N: of a temporal layer
    ],
)
def test_a_picture_upon_which_none_builds_is_known_by_its_first_slice(
    nals: list[bytes], codec: str, disposable: bool
) -> None:
    assert Picture.whole(Piece(annex_b(nals), 0).packet(), codec).is_disposable is disposable


def test_of_a_picture_in_pieces_its_first_slice_tells_that_none_builds_upon_it() -> None:
    alone = [SEI + bytes([4, 1, 2]), b"\x01\x9a" + b"\x9a" * 3000, b"\x01\x1a"]
    stream = stream_of([picture(900, key=True), alone, picture(900, 900)])
    assert [one.is_disposable for _, one in fed(AccessUnits("h264"), stream)] == [
        False,
        True,
        False,
    ]


sizes = st.integers(2, 6000)


@given(
    st.lists(st.lists(sizes, min_size=1, max_size=4), min_size=1, max_size=60),
    st.booleans(),
    st.integers(0, 3),
)
@settings(max_examples=200, deadline=None)
def test_pictures_of_whatever_slices_are_joined_as_they_were_until_the_rule_is_broken(
    slices: list[list[int]], learned: bool, trailing: int
) -> None:
    before = STEADY if learned else []
    after = [[*picture(*sizes), *[FILLER] * trailing] for sizes in slices]
    pictures = [*before, *after]
    parts_of: dict[int, list[bytes]] = {}
    for one in joined(AccessUnits("h264"), stream_of(pictures)):
        assert one.pts is not None
        parts_of.setdefault(one.pts, []).append(bytes(one.packet()))
    assert list(parts_of) == [3600 * at for at in range(len(pictures))]
    whole = [b"".join(parts) for parts in parts_of.values()]
    assert b"".join(whole) == b"".join(annex_b(nals) for nals in pictures)
    # What trails a picture that was taken for whole comes with the next one.
    slices_only = [found.replace(START + FILLER, b"") for found in whole]
    assert slices_only == [annex_b([nal for nal in nals if nal != FILLER]) for nals in pictures]
    # One that is taken for whole and goes on is the last for long: 120 pictures are to be seen.
    assert sum(len(parts) - 1 for parts in parts_of.values()) <= (1 if learned else 0)


def test_a_camera_that_breaks_the_rule_has_to_show_it_for_longer() -> None:
    units = AccessUnits("h264")
    stream = stream_of([*STEADY, picture(2000, 2000), *STEADY, *STEADY, *STEADY])
    given_at = [(number, one.pts) for number, one in fed(units, stream)]
    halves = [number for number, pts in given_at if pts == 60 * 3600]
    assert len(halves) == 2
    early = [pts for number, pts in given_at if number < len(stream) and stream[number].pts == pts]
    first_again = next(pts for pts in early if pts is not None and pts > 60 * 3600)
    assert first_again >= (60 + 4 * 30) * 3600


def test_two_pictures_of_one_timestamp_are_two() -> None:
    stream = [piece for at in range(80) for piece in pieces(STEADY[at % 60], at // 2)]
    packets = [bytes(one.packet()) for one in joined(AccessUnits("h264"), stream)]
    heads = [SPS + bytes(10)]  # comes with the picture before where that has the same time
    assert b"".join(packets) == b"".join(annex_b(STEADY[at % 60]) for at in range(80))
    assert sum(packet != annex_b(heads) for packet in packets) == 80


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("after", [900, -900, -7200])
def test_what_precedes_slices_may_have_a_time_of_its_own(after: int, learned: bool) -> None:
    before = STEADY if learned else []
    units, stream = AccessUnits("h264"), stream_of([*before, *STEADY])
    heads = [SPS + bytes(10), SEI + bytes([5, 1, 9, 128])]
    for at in range(len(before), len(before) + len(STEADY), 5):
        place = next(n for n, piece in enumerate(stream) if piece.pts == at * 3600)
        stream[place:place] = pieces(heads, at * 3600 + after)
    given_pictures = [one for _, one in fed(units, stream)]
    assert [one.pts for one in given_pictures] == [3600 * at for at in range(len(before) + 60)]
    assert all(one.slices == 1 and one.first.pts == one.pts for one in given_pictures)
    assert sum(one.size for one in given_pictures) == sum(len(piece.data) for piece in stream)


@pytest.mark.parametrize(
    "remains",
    [
        [b"\x9a" * 900],  # of a slice that was in two pieces
        [START + SEI + bytes(1300), b"\x9a" * 900],
    ],
)
def test_what_is_left_of_a_picture_stays_apart_from_the_next_one(remains: list[bytes]) -> None:
    stream = [*pieces(STEADY[0], 0), *(Piece(data, 3600) for data in remains)]
    stream += pieces(STEADY[1], 7200)
    assert [one.pts for _, one in fed(AccessUnits("h264"), stream)] == [0, 3600, 7200]


def test_a_recovery_point_whose_picture_was_lost_makes_no_keyframe_of_the_next_one() -> None:
    stream = [Piece(START + SEI + b"\x06\x01\xc4\x80", 0), *pieces(picture(900), 3600)]
    ((_, found),) = fed(AccessUnits("h264"), stream)
    assert not found.is_keyframe


@dataclass(frozen=True)
class FakePacket:
    """A piece and what FFmpeg attaches to it."""

    piece: Piece
    attached: tuple[str, ...]

    @property
    def pts(self) -> int:
        return self.piece.pts

    def __bytes__(self) -> bytes:
        return self.piece.data

    def iter_sidedata(self) -> Iterator[Any]:
        return iter([SimpleNamespace(data_type=kind) for kind in self.attached])


def test_a_report_that_comes_inside_a_picture_is_seen() -> None:
    units, found = AccessUnits("h264"), []
    for number, piece in enumerate(stream_of(STEADY[1:4])):
        # The first piece of the second picture, and the second one of the third.
        attached = ("rtcp_sr", "prft") if number in (2, 5) else ("prft",)
        found += units.add(cast("Packet", FakePacket(piece, attached)))
    assert [one.was_reported_in for one in [*found, *units.rest()]] == [False, False, True]


def test_a_picture_came_with_its_last_piece_also_where_only_the_next_one_tells_that() -> None:
    clock = FakeClock()
    units = AccessUnits("h264", clock=clock)
    found: list[Picture] = []
    came: dict[int | None, tuple[int, int]] = {}
    for piece in stream_of(STEADY[1:6]):
        clock.advance(0.01)
        came[piece.pts] = clock.time_ns(), clock.monotonic_ns()
        found += units.add(piece.packet())
    clock.advance(0.2)
    found += units.rest()
    assert [one.came_ns for one in found] == [came[one.pts] for one in found]
    assert len(found) == 5


def test_what_no_picture_can_be_is_not_gathered_for_ever() -> None:
    endless = [Piece(START + SLICE + bytes(1_000_000), 7) for _ in range(100)]
    given_sizes = [one.size for one in joined(AccessUnits("h264"), endless)]
    assert max(given_sizes) < 34_000_000
    assert sum(given_sizes) == sum(len(piece.data) for piece in endless)


def test_of_another_codec_a_new_timestamp_tells_the_end() -> None:
    stream = [Piece(bytes(size), at) for at in range(50) for size in (1398, 1398, 20)]
    given_at = [(number, one.pts, one.size) for number, one in fed(AccessUnits("mpeg4"), stream)]
    assert given_at == [(3 * at + 3, at, 2816) for at in range(50)]


@pytest.mark.parametrize(
    ("messages", "is_key", "recovers_after"),
    [
        (b"\x06\x01\xc4\x80", True, 0),
        (b"\x01\x02\x06\x06\x06\x01\xc4\x80", True, 0),  # after the time of the picture
        (b"\x06\x02\x1f\x10\x80", False, 14),
        (b"\x06\x01\x08\x80", False, 0),  # cut off
        (b"\x05\xff\x20\x06\x01\xc4", False, 0),
        (b"\x01\x09\x06", False, 0),
        (b"\x01\x01\x06\x80", False, 0),
    ],
)
def test_a_recovery_point_is_a_keyframe_unless_pictures_are_refreshed_part_by_part(
    messages: bytes, is_key: bool, recovers_after: int
) -> None:
    stream = stream_of([[SEI + messages, *picture(900)], picture(900), picture(10)])
    found = [one for _, one in fed(AccessUnits("h264"), stream)]
    assert [one.is_keyframe for one in found] == [is_key, False, False]
    assert [one.recovers_after for one in found] == [recovers_after, 0, 0]
    whole = Picture.whole(found[0].packet(), "h264")
    assert (whole.is_keyframe, whole.recovers_after) == (is_key, recovers_after)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    scene = Scene(3, 640, 360, fps=25)
    return {
        codec: write_clip(folder / f"{codec}.mp4", scene, 4.0, codec).path
        for codec in ("h264", "hevc")
    }


def decoded(clip: Clip, pictures: Sequence[Picture]) -> tuple[list[Image], int]:
    """The whole pictures, and how many were damaged."""
    images, damaged = [], 0
    with av.open(io.BytesIO(annex_b(clip.units[0].nals)), format=clip.codec) as container:
        stream = container.streams.video[0]
        decoder = Decoder(stream, SystemClock())
        for one in pictures:
            found = decoder.decode(one)
            images += [_image(frame.image) for frame in found.frames]
            damaged += found.damaged
    return images, damaged


def _image(frame: av.VideoFrame) -> Image:
    return np.asarray(frame.to_ndarray(format="gray"), np.uint8)


def expected_of(path: Path) -> list[Image]:
    with av.open(str(path)) as container:
        return [_image(frame) for frame in container.decode(video=0)]


def units_of(clip: Clip, header: int) -> list[list[Piece]]:
    def of(at: int, unit: AccessUnit) -> list[Piece]:
        return pieces(unit.nals, at * 3600, header)

    return [of(at, unit) for at, unit in enumerate(clip.units)]


@pytest.mark.parametrize(("codec", "header"), [("h264", 1), ("hevc", 2)])
def test_real_pictures_are_decoded_as_those_of_the_file_and_have_its_keyframes(
    clips: dict[str, Path], codec: str, header: int
) -> None:
    clip = Clip.open(clips[codec])
    stream = [piece for unit in units_of(clip, header) for piece in unit]
    found = joined(AccessUnits(codec), stream)
    assert [one.packet().is_keyframe for one in found] == [unit.keyframe for unit in clip.units]
    images, damaged = decoded(clip, found)
    expected = expected_of(clips[codec])
    assert damaged == 0
    assert len(images) == len(expected) == 100
    assert all(np.array_equal(a, b) for a, b in zip(images, expected, strict=True))


def test_pictures_of_mpeg4_part_2_are_decoded_as_those_of_their_encoder(tmp_path: Path) -> None:
    path, scene = tmp_path / "clip.avi", Scene(1, 640, 360, fps=25)
    with av.open(str(path), "w") as container:
        encoder = container.add_stream("mpeg4", rate=25)
        encoder.width, encoder.height, encoder.pix_fmt = 640, 360, "yuv420p"
        for at in range(50):
            frame = av.VideoFrame.from_ndarray(scene.frame(at)[0], format="rgb24")
            container.mux(encoder.encode(frame))
        container.mux(encoder.encode())
    units, given_pictures = AccessUnits("mpeg4"), []
    with av.open(str(path)) as container:
        decoder = container.streams.video[0].codec_context
        for number, packet in enumerate(container.demux(video=0)):
            data = bytes(packet)
            for at in range(0, len(data), MTU):
                given_pictures += units.add(Piece(data[at : at + MTU], number * 3600).packet())
        given_pictures += units.rest()
        frames = [frame for one in given_pictures for frame in decoder.decode(one.packet())]
        frames += decoder.decode(None)
    assert not any(frame.is_corrupt for frame in frames)
    expected = expected_of(path)
    assert len(frames) == len(expected) == 50
    assert all(np.array_equal(_image(a), b) for a, b in zip(frames, expected, strict=True))


@pytest.mark.parametrize(("codec", "header"), [("h264", 1), ("hevc", 2)])
def test_a_picture_that_goes_on_is_damage_up_to_the_next_keyframe(
    clips: dict[str, Path], codec: str, header: int
) -> None:
    clip = Clip.open(clips[codec])
    units = units_of(clip, header)
    # One slice comes in pieces of other lengths, as from another packetizer.
    odd = next(at for at in range(60, 75) if all(len(piece.data) < 1000 for piece in units[at]))
    whole = units[odd].pop()
    units[odd] += [Piece(whole.data[:100], whole.pts), Piece(whole.data[100:], whole.pts)]
    found = joined(AccessUnits(codec), [piece for unit in units for piece in unit])
    assert len(found) == len(units) + 1
    images, damaged = decoded(clip, found)
    expected = expected_of(clips[codec])
    next_key = next(at for at in range(odd, 100) if clip.units[at].keyframe)
    assert damaged > 0
    kept = [*expected[:odd], *expected[next_key:]]
    if codec == "hevc":
        del images[odd]  # FFmpeg's decoder does not see that the picture ends too soon
    assert len(images) == len(kept)
    assert all(np.array_equal(a, b) for a, b in zip(images, kept, strict=True))
