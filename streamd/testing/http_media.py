"""Clips prepared for HTTP: a row of JPEG images, and MPEG-TS segments with their playlists."""

import re
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import Self

import av

_WINDOW_SEGMENTS = 3  # how many segments a live playlist lists
_SEGMENT = re.compile(r"#EXTINF:([\d.]+),[^\n]*\n(\S+)")


@dataclass(frozen=True, slots=True)
class JpegImages:
    """The pictures of a clip as JPEG images."""

    fps: float
    images: tuple[bytes, ...]

    @classmethod
    def of(cls, clip: str | Path) -> Self:
        """Decode a video file of any codec and encode its pictures."""
        with av.open(str(clip)) as container:
            stream = container.streams.video[0]
            rate = stream.average_rate or Fraction(25)
            encoder = av.CodecContext.create("mjpeg", "w")
            encoder.width, encoder.height = stream.codec_context.width, stream.codec_context.height
            encoder.pix_fmt = "yuvj420p"
            encoder.time_base = 1 / rate
            images = [
                bytes(packet)
                for frame in container.decode(stream)
                for packet in encoder.encode(frame.reformat(format="yuvj420p", threads=1))
            ]
        return cls(float(rate), tuple(images))


@dataclass(frozen=True, slots=True)
class HlsSegments:
    """A clip cut at keyframes into MPEG-TS segments (RFC 8216), for one viewing or for ever."""

    segments: tuple[bytes, ...]
    durations_s: tuple[float, ...]

    @classmethod
    def of(cls, clip: str | Path, segment_s: float) -> Self:
        """Cut a video file, without coding it anew, into segments of at least `segment_s`."""
        with tempfile.TemporaryDirectory() as folder:
            playlist = Path(folder) / "list.m3u8"
            options = {
                "hls_time": str(segment_s),
                "hls_list_size": "0",
                "hls_segment_filename": f"{folder}/%d.ts",
            }
            with (
                av.open(str(clip)) as source,
                av.open(str(playlist), "w", format="hls", options=options) as out,
            ):
                stream = source.streams.video[0]
                copy = out.add_stream_from_template(stream)
                for packet in source.demux(stream):
                    if packet.size:
                        packet.stream = copy
                        out.mux(packet)
            listed = _SEGMENT.findall(playlist.read_text())
            segments = tuple((playlist.parent / name).read_bytes() for _, name in listed)
        return cls(segments, tuple(float(duration) for duration, _ in listed))

    def recording(self) -> str:
        """Return the playlist of the whole clip."""
        lines = [*self._head(0), "#EXT-X-PLAYLIST-TYPE:VOD"]
        for number in range(len(self.segments)):
            lines += self._entry(number)
        return "\n".join([*lines, "#EXT-X-ENDLIST", ""])

    def live(self, elapsed_s: float) -> str:
        """Return the playlist of a camera that repeats the clip and began `elapsed_s` ago.

        Segments are counted on over the repetitions; segment n has the bytes of
        `segments[n % len(segments)]`.
        """
        first = self._completed(elapsed_s)
        lines = self._head(first)
        lines.append(f"#EXT-X-DISCONTINUITY-SEQUENCE:{max(0, first - 1) // len(self.segments)}")
        for number in range(first, first + _WINDOW_SEGMENTS):
            if number and number % len(self.segments) == 0:
                lines.append("#EXT-X-DISCONTINUITY")  # timestamps start again
            lines += self._entry(number)
        return "\n".join([*lines, ""])

    def _completed(self, elapsed_s: float) -> int:
        """Return how many segments are over after `elapsed_s`; the playlist begins there."""
        ends_s = list(accumulate(self.durations_s))
        repeats, rest_s = divmod(elapsed_s, ends_s[-1])
        return int(repeats) * len(ends_s) + sum(end_s <= rest_s for end_s in ends_s)

    def _head(self, first: int) -> list[str]:
        longest_s = max(1, round(max(self.durations_s)))
        return [
            "#EXTM3U",
            "#EXT-X-VERSION:3",
            f"#EXT-X-TARGETDURATION:{longest_s}",
            f"#EXT-X-MEDIA-SEQUENCE:{first}",
        ]

    def _entry(self, number: int) -> list[str]:
        duration_s = self.durations_s[number % len(self.segments)]
        return [f"#EXTINF:{duration_s:.6f},", f"{number}.ts"]
