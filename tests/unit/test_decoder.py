"""Damage and times on the way from packets to frames."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from av.video.stream import VideoStream
from numpy.typing import NDArray

from streamd.errors import SourceError
from streamd.ingest.access_units import Packet, Picture
from streamd.ingest.decoder import Decoded, DecodedFrame, Decoder

from .fakes import FakeClock

FRAMES, GROUP = 24, 8
ENCODERS = {
    "h264": ("libx264", {"preset": "ultrafast", "bf": "0", "g": str(GROUP), "sc_threshold": "0"}),
    "reordered": (
        "libx264",
        {
            "preset": "veryfast",
            "bf": "2",
            "g": str(GROUP),
            "x264-params": "b-adapt=0:b-pyramid=none",
        },
    ),
    "hevc": (
        "libx265",
        {
            "preset": "ultrafast",
            "x265-params": f"log-level=none:bframes=0:keyint={GROUP}:scenecut=0",
        },
    ),
    "mjpeg": ("mjpeg", {"huffman": "default"}),
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Moving noise, so that damage shows and spreads; a keyframe every GROUP frames."""
    folder = tmp_path_factory.mktemp("clips")
    return {name: write_noise(folder / f"{name}.mkv", *how) for name, how in ENCODERS.items()}


def write_noise(path: Path, encoder: str, options: dict[str, str]) -> Path:
    noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = cast(VideoStream, container.add_stream(encoder, rate=10, options=options))
        stream.width, stream.height = 96, 64
        stream.pix_fmt = "yuvj420p" if encoder == "mjpeg" else "yuv420p"
        for index in range(FRAMES):
            picture = av.VideoFrame.from_ndarray(np.roll(noise, index, axis=1), format="rgb24")
            container.mux(stream.encode(picture.reformat(format=stream.pix_fmt)))
        container.mux(stream.encode(None))
    return path


def cut(packet: Packet) -> Packet:
    """`packet` without its second half, as when the network lost it."""
    damaged = av.Packet(bytes(packet)[: packet.size // 2])
    damaged.stream, damaged.pts, damaged.dts = packet.stream, packet.pts, packet.dts
    damaged.time_base, damaged.is_keyframe = packet.time_base, packet.is_keyframe
    return cast("Packet", damaged)


def whole(packet: Packet) -> Picture:
    return Picture.whole(packet, "h264")


def decoded(path: Path, *, damage: tuple[int, ...] = (), strict: bool = True) -> Iterator[Decoded]:
    """What comes of the file's packets, of which those numbered in `damage` are cut."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoder = Decoder(stream, FakeClock(), strict=strict)
        for number, packet in enumerate(container.demux(stream)):
            yield decoder.decode(whole(cut(packet) if number in damage else packet))


def frames_of(results: Iterator[Decoded]) -> tuple[list[DecodedFrame], int]:
    everything = list(results)
    return [f for one in everything for f in one.frames], sum(one.damaged for one in everything)


@pytest.mark.parametrize("codec", ENCODERS)
def test_what_is_whole_comes_out_whole(clips: dict[str, Path], codec: str) -> None:
    frames, damaged = frames_of(decoded(clips[codec]))
    assert (len(frames), damaged) == (FRAMES, 0)
    times_s = [frame.pts_s for frame in frames]
    assert times_s == pytest.approx([n / 10 for n in range(FRAMES)])


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_damage_spoils_all_that_follows_it_up_to_the_next_keyframe(
    clips: dict[str, Path], codec: str
) -> None:
    undamaged, _ = frames_of(decoded(clips[codec]))
    frames, damaged = frames_of(decoded(clips[codec], damage=(GROUP + 3,)))
    expected = [n for n in range(FRAMES) if not GROUP + 3 <= n < 2 * GROUP]
    assert [round(10 * (frame.pts_s or 0)) for frame in frames] == expected
    assert damaged == FRAMES - len(expected)
    for number, frame in zip(expected, frames, strict=True):
        assert np.array_equal(frame.image.to_ndarray(), undamaged[number].image.to_ndarray())


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_a_damaged_keyframe_costs_its_whole_group_but_is_a_sign_of_life(
    clips: dict[str, Path], codec: str
) -> None:
    results = list(decoded(clips[codec], damage=(GROUP,)))
    frames, damaged = frames_of(iter(results))
    numbers = [round(10 * (frame.pts_s or 0)) for frame in frames]
    assert numbers == [n for n in range(FRAMES) if not GROUP <= n < 2 * GROUP]
    assert damaged >= 1  # H.264's decoder keeps to itself what builds upon nothing
    assert sum(one.keyframe for one in results) == FRAMES // GROUP


def test_damage_of_a_stream_that_is_refreshed_part_by_part_ends_when_all_is_refreshed(
    tmp_path: Path,
) -> None:
    refreshed = {"preset": "veryfast", "x264-params": f"intra-refresh=1:keyint={GROUP}:bframes=0"}
    path = write_noise(tmp_path / "refresh.mkv", "libx264", refreshed)

    def results(*, damage: int | None = None) -> Iterator[Decoded]:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            decoder = Decoder(stream, FakeClock(), strict=True)
            as_cameras_send = BitStreamFilterContext("h264_mp4toannexb", stream)
            for number, demuxed in enumerate(container.demux(stream)):
                (packet,) = as_cameras_send.filter(demuxed) if demuxed.size else (demuxed,)
                packet.stream = stream
                yield decoder.decode(whole(cut(packet) if number == damage else packet))

    undamaged, _ = frames_of(results())
    frames, damaged = frames_of(results(damage=3))
    numbers = [round(10 * (frame.pts_s or 0)) for frame in frames]
    again = next(number for number in numbers if number > 3)
    assert GROUP < again <= 2 * GROUP
    assert numbers == [0, 1, 2, *range(again, FRAMES)]
    assert damaged == FRAMES - len(frames)
    for number, frame in zip(numbers, frames, strict=True):
        assert np.array_equal(frame.image.to_ndarray(), undamaged[number].image.to_ndarray())


def test_each_jpeg_stands_for_itself(clips: dict[str, Path]) -> None:
    frames, damaged = frames_of(decoded(clips["mjpeg"], damage=(3, 4)))
    assert (len(frames), damaged) == (FRAMES - 2, 2)


def test_frames_that_were_reordered_keep_the_arrival_of_their_own_packet(
    clips: dict[str, Path],
) -> None:
    clock = FakeClock()
    came_ns: dict[int, int] = {}
    with av.open(str(clips["reordered"])) as container:
        stream = container.streams.video[0]
        decoder = Decoder(stream, clock)
        frames: list[DecodedFrame] = []
        for packet in container.demux(stream):
            clock.advance(0.1)
            if packet.pts is not None:
                came_ns[round(10 * float(packet.pts * packet.time_base))] = clock.monotonic_ns()
            # As FFmpeg's RTSP demuxer does it with the first packet.
            if packet.is_keyframe and packet.pts == 0:
                packet.pts = None
            frames += decoder.decode(whole(packet)).frames
    assert [frame.arrival_ns for frame in frames] == [came_ns[n] for n in range(FRAMES)]
    assert list(came_ns) != sorted(came_ns), "the clip has no reordering"


def test_a_sloppy_camera_is_refused_by_a_strict_decoder_only(clips: dict[str, Path]) -> None:
    everything = tuple(range(FRAMES))
    strict = list(decoded(clips["mjpeg"], damage=everything))
    assert not frames_of(iter(strict))[0]
    lenient, _ = frames_of(decoded(clips["mjpeg"], damage=everything, strict=False))
    assert len(lenient) == FRAMES


@pytest.mark.parametrize("strict", [True, False])
def test_what_the_source_forbade_its_decoder_stays_forbidden(
    clips: dict[str, Path], strict: bool
) -> None:
    with av.open(str(clips["mjpeg"])) as container:
        stream = container.streams.video[0]
        stream.codec_context.options = {"max_pixels": str(96 * 64 - 1)}
        decoder = Decoder(stream, FakeClock(), strict=strict)
        results = [decoder.decode(whole(packet)) for packet in container.demux(stream)]
    assert not any(one.frames for one in results)


def test_a_pixel_format_that_would_abort_the_process_is_refused(
    clips: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamd.ingest.decoder._FATAL_FORMATS", ("yuv420p",))
    with pytest.raises(SourceError, match=r"codec_unsupported: has pictures of .* yuv420p"):
        frames_of(decoded(clips["h264"]))


@pytest.mark.parametrize("codec", ["h264", "hevc"])
@pytest.mark.parametrize("needed", [(0, 5, 6, 8, 16), (0, 12, 13, 16)])
def test_what_was_skipped_is_made_up_for_where_it_is_needed(
    clips: dict[str, Path], codec: str, needed: tuple[int, ...]
) -> None:
    with av.open(str(clips[codec])) as container:
        stream = container.streams.video[0]
        expected = [frame.to_ndarray() for frame in container.decode(stream)]
    found: dict[float | None, NDArray[Any]] = {}
    with av.open(str(clips[codec])) as container:
        stream = container.streams.video[0]
        decoder = Decoder(stream, FakeClock())
        for number, packet in enumerate(container.demux(stream)):
            if packet.size and number not in needed:
                decoder.skip(whole(packet))
                continue
            for frame in decoder.decode(whole(packet)).frames:
                found[frame.pts_s] = frame.image.to_ndarray()
    assert not decoder.delays
    assert list(found) == pytest.approx([number / 10 for number in needed])
    for pts_s, image in found.items():
        assert pts_s is not None
        assert np.array_equal(image, expected[round(10 * pts_s)])


def test_pictures_upon_which_none_builds_are_left_out_and_the_others_are_what_they_were(
    clips: dict[str, Path],
) -> None:
    with av.open(str(clips["reordered"])) as container:
        stream = container.streams.video[0]
        expected = [frame.to_ndarray() for frame in container.decode(stream)]
    found: dict[int, NDArray[Any]] = {}
    skipped: set[int] = set()
    with av.open(str(clips["reordered"])) as container:
        stream = container.streams.video[0]
        decoder = Decoder(stream, FakeClock())
        as_cameras_send = BitStreamFilterContext("h264_mp4toannexb", stream)
        for demuxed in container.demux(stream):
            (packet,) = as_cameras_send.filter(demuxed) if demuxed.size else (demuxed,)
            picture = whole(packet)
            if picture.is_disposable:
                decoder.drop(picture)
                skipped.add(round(10 * (decoder.media_s(picture) or 0)))
            else:
                for frame in decoder.decode(picture).frames:
                    found[round(10 * (frame.pts_s or 0))] = frame.image.to_ndarray()
    assert len(skipped) > FRAMES / 3
    assert set(found) == set(range(FRAMES)) - skipped
    assert all(np.array_equal(image, expected[number]) for number, image in found.items())


def test_a_decoder_that_reorders_says_so(clips: dict[str, Path]) -> None:
    with av.open(str(clips["reordered"])) as container:
        stream = container.streams.video[0]
        decoder = Decoder(stream, FakeClock())
        for packet in container.demux(stream):
            decoder.decode(whole(packet))
        assert decoder.delays
