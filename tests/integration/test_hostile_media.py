"""Files and cameras that mean harm: no crash, no hang, no unbounded memory, no way elsewhere."""

import random
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import pytest
from av.video.stream import VideoStream

from streamd.demo.clips import write_clip
from streamd.scenes import Scene
from streamd.testing.clip import Clip
from streamd.testing.http_server import HttpServer

from .h264_size import with_picture_size
from .hostile import ROUNDS, SEED, mutated, read_all

# Container by codec; the encoders are those of the demo's clips.
KINDS = {
    "h264": ("mp4", "mkv", "ts", "avi", "flv", "h264"),
    "hevc": ("mp4", "mkv", "ts", "hevc"),
    "mjpeg": ("avi", "mkv", "mov", "mjpeg"),
    "av1": ("mp4", "mkv", "obu", "ivf"),
    "vp9": ("webm", "ivf"),
}
# A reader at rest has about 90 MB; the largest of the small pictures here is far below 1 MB.
MOST_RSS_MB = 700


def encoded(
    path: Path, encoder: str, pixels: str, frame: av.VideoFrame, count: int, fps: int = 15
) -> None:
    """Writes `frame` so many times."""
    with av.open(str(path), "w") as out:
        # PyAV knows the kind of stream only for encoders named literally.
        stream = cast(VideoStream, out.add_stream(encoder, rate=fps))
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, pixels
        for number in range(count):
            picture = frame.reformat(format=pixels)
            picture.pts, picture.time_base = number, Fraction(1, fps)
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A small good file of every kind that is read."""
    folder = tmp_path_factory.mktemp("samples")
    files = []
    for codec, suffixes in KINDS.items():
        for suffix in suffixes:
            path = folder / f"{codec}.{suffix}"
            files.append(write_clip(path, Scene(3, 128, 96), 0.5, codec).path)
    with av.open(str(folder / "h264.mp4")) as container:
        frame = next(container.decode(video=0))
    for name, encoder, pixels in (("a.jpg", "mjpeg", "yuvj420p"), ("a.png", "png", "rgb24")):
        encoded(folder / name, encoder, pixels, frame, count=1)
        files.append(folder / name)
    return files


def test_every_kind_is_read_whole_when_it_is_whole(samples: list[Path]) -> None:
    outcome = read_all(samples, within_s=60)
    frames = {Path(url).name: line["frames"] for url, line in outcome.by_url.items()}
    assert set(frames.values()) <= {1, 7, 8}, outcome.by_url
    assert sum(frames.values()) > 7 * len(samples) - 20


def flipped(samples: list[Path], folder: Path, rounds: int) -> Iterator[Path]:
    for sample in samples:
        data = sample.read_bytes()
        for number in range(rounds):
            rng = random.Random(f"{SEED} {sample.name} {number}")
            path = folder / f"{number}-{sample.name}"
            path.write_bytes(mutated(data, rng))
            yield path


def bear(files: list[Path], within_s: float) -> None:
    outcome = read_all(files, within_s=within_s)
    assert len(outcome.by_url) == len(files)
    assert max(line["seconds"] for line in outcome.by_url.values()) < 10
    assert outcome.rss_mb < MOST_RSS_MB


def test_damaged_files_of_every_kind(samples: list[Path], tmp_path: Path) -> None:
    bear(list(flipped(samples, tmp_path, 8)), within_s=60)


@pytest.mark.slow
def test_thousands_of_damaged_files(samples: list[Path], tmp_path: Path) -> None:
    rounds = ROUNDS or 300
    for sample in samples:
        files = list(flipped([sample], tmp_path, rounds))
        bear(files, within_s=600)
        for file in files:
            file.unlink()


def test_files_that_are_hardly_there(samples: list[Path], tmp_path: Path) -> None:
    files = []
    for sample in samples:
        data = sample.read_bytes()
        for size in (0, 1, 12, len(data) // 2):
            files.append(tmp_path / f"{size}-{sample.name}")
            files[-1].write_bytes(data[:size])
        files.append(tmp_path / f"zeros-{sample.name}")
        files[-1].write_bytes(bytes(4096))
    bear(files, within_s=60)


def large_jpeg(jpeg: bytes, width: int, height: int) -> bytes:
    """A JPEG that says it is larger, with enough bytes for a decoder to believe it."""
    data = bytearray(jpeg)
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    end = data.rindex(b"\xff\xd9")
    return bytes(data[:end] + b"\x55" * 8_000_000 + data[end:])


def test_pictures_larger_than_memory_are_refused_before_any_is_taken(tmp_path: Path) -> None:
    """Without the bound the H.264 file took 1.2 GB, the JPEGs 0.8 GB."""
    clip = Clip.open(write_clip(tmp_path / "a.mp4", Scene(1, 320, 180), 1.0).path)
    nals = [with_picture_size(nal, 16000, 16000) for unit in clip.units for nal in unit.nals]
    raw = tmp_path / "large.h264"
    raw.write_bytes(b"".join(b"\0\0\0\1" + nal for nal in nals))
    jpegs = Clip.open(write_clip(tmp_path / "a.avi", Scene(1, 320, 176), 0.2, "mjpeg").path)
    still = tmp_path / "large.mjpeg"
    still.write_bytes(b"".join(large_jpeg(unit.nals[0], 16000, 16000) for unit in jpegs.units))
    outcome = read_all([raw, still], within_s=60)
    assert outcome.rss_mb < 400
    assert {line["frames"] for line in outcome.by_url.values()} == {0}
    said = outcome.by_url[str(raw)]["reason"]
    assert said.startswith("codec_unsupported: its pictures of 16000x")
    assert said.endswith(" are larger than 35 megapixels")


def test_the_largest_common_pictures_are_read(tmp_path: Path) -> None:
    path = tmp_path / "8k.avi"
    encoded(path, "mjpeg", "yuvj420p", av.VideoFrame(7680, 4320, "yuvj420p"), count=1)
    outcome = read_all([path], within_s=60)
    assert outcome.by_url[str(path)]["sizes"] == [[7680, 4320]]


def test_a_size_that_changes_with_every_frame(tmp_path: Path) -> None:
    sizes = [(64 + 16 * (7 * n % 40), 64 + 16 * (11 * n % 30)) for n in range(20)]
    parts = []
    for number, (width, height) in enumerate(sizes):
        clip = write_clip(tmp_path / f"{number}.avi", Scene(1, width, height), 0.05, "mjpeg")
        parts.append(Clip.open(clip.path).units[0].nals[0])
    path = tmp_path / "changing.mjpeg"
    path.write_bytes(b"".join(parts))
    outcome = read_all([path], within_s=60).by_url[str(path)]
    assert sorted(map(tuple, outcome["sizes"])) == sorted(set(sizes))


def test_a_rate_of_ten_thousand_frames_a_second(tmp_path: Path) -> None:
    path = tmp_path / "fast.mkv"
    encoded(path, "libx264", "yuv420p", av.VideoFrame(64, 64, "yuv420p"), count=50, fps=10_000)
    assert read_all([path], within_s=30).by_url[str(path)]["frames"] == 50


PLAYLIST = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\n{}\n#EXT-X-ENDLIST\n"
MASTER = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{}\n"
ENCRYPTED = (
    "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n"
    '#EXT-X-KEY:METHOD=AES-128,URI="{}"\n#EXTINF:2.0,\n0.ts\n#EXT-X-ENDLIST\n'
)
CONCAT = "ffconcat version 1.0\nfile '{}'\n"
SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=video 5004 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
)


def leads_to(target: Path) -> dict[str, str]:
    """Texts that FFmpeg would follow to `target`, by name."""
    ways = [f"{way}{target}" for way in ("", "file://", "file:", "concat:", "crypto:", "cache:")]
    ways.append(f"subfile,,start,0,end,0,,:{target}")
    shapes = {"list": PLAYLIST, "master": MASTER, "key": ENCRYPTED, "concat": CONCAT}
    texts = {
        f"{name}-{number}.m3u8": shape.format(way)
        for name, shape in shapes.items()
        for number, way in enumerate(ways)
    }
    return {**texts, "x.sdp": SDP}


def test_a_camera_leads_to_no_file_of_this_machine(samples: list[Path], tmp_path: Path) -> None:
    secret = next(path for path in samples if path.name == "h264.ts")
    with HttpServer() as web:
        urls = [web.file("/good.ts", secret)]
        for name, text in leads_to(secret).items():
            (tmp_path / name).write_text(text)
            urls.append(web.file(f"/{name}", tmp_path / name))
        urls += [web.redirect(f"/moved-{way}", f"{way}{secret}") for way in ("file://", "file:")]
        outcome = read_all(urls, threads=8, within_s=60).by_url
    assert outcome.pop(urls[0])["frames"] > 0
    assert {url: line["frames"] for url, line in outcome.items() if line["frames"]} == {}


def test_a_file_leads_to_no_other_file(samples: list[Path], tmp_path: Path) -> None:
    """FFmpeg goes by content: a playlist in gate.mp4 is one, too."""
    secret = next(path for path in samples if path.name == "h264.ts")
    files = []
    for name, text in leads_to(secret).items():
        for path in (tmp_path / name, tmp_path / f"{name}.mp4"):
            path.write_text(text)
            files.append(path)
    outcome = read_all(files, threads=8, within_s=60).by_url
    assert {url: line["frames"] for url, line in outcome.items() if line["frames"]} == {}
