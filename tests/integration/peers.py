"""Clips to serve and whole peers to talk to, for the tests of this folder."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

FPS = 30
_SYSTEM_PYTHON = "/usr/bin/python3"  # has Debian's GStreamer bindings, if they are installed
_GST_MISSING = 77  # exit status of gst_server.py
_OPTIONS = {
    "libx264": {"preset": "veryfast", "bf": "2"},  # B-frames: sent in another order than shown
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"},
    "mjpeg": {"huffman": "default", "q": "5"},
}


def write_pattern(
    path: Path,
    encoder: str,
    frames: int = 15,
    size: tuple[int, int] = (160, 120),
    options: dict[str, str] | None = None,
) -> None:
    """Write a clip of noise (so that pictures take several packets) with a growing bar."""
    width, height = size
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        options = _OPTIONS[encoder] if options is None else options
        # PyAV knows the kind of stream only for encoders named literally.
        stream = cast(VideoStream, container.add_stream(encoder, rate=FPS, options=options))
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if encoder == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = 10
        for index in range(frames):
            picture = noise.copy()
            picture[:, : (index + 1) * width // frames] = 8 * index % 256
            frame = VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
        container.mux(stream.encode(None))


@contextmanager
def gstreamer_server(*files: Path) -> Iterator[str]:
    """Run GStreamer's RTSP server on H.264 files; yield its address, rtsp://HOST:PORT.

    The files are at /0, /1, ..., a live test picture is at /pattern. Skips the test where
    GStreamer or its Python bindings are not installed.
    """
    script = Path(__file__).with_name("gst_server.py")
    command = [_SYSTEM_PYTHON, str(script), *map(str, files)]
    if not Path(_SYSTEM_PYTHON).exists():
        pytest.skip(f"no {_SYSTEM_PYTHON}")
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        try:
            port = process.stdout.readline().strip()
            if not port:
                reason = process.stderr.read().strip()
                (pytest.skip if process.wait() == _GST_MISSING else pytest.fail)(reason)
            yield f"rtsp://127.0.0.1:{port}"
        finally:
            process.kill()
