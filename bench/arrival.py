"""How long after its last packet was sent a picture is there to be decoded.

    python -m bench.arrival

A simulated RTSP camera over loopback, by codec and frames a second. At first FFmpeg's way, where a
picture is whole once the next one begins; then that of streamd/ingest/access_units.py, once the
connection has shown how it cuts its pictures. Medians of 25 pictures each.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

from streamd.config import CameraConfig
from streamd.demo.clips import write_clip
from streamd.ingest.source import source_for
from streamd.scenes import Scene
from streamd.testing.rtsp_server import RtspServer

_SIZE = 1280, 720
_LEARNS = 120  # pictures that are left out in between
_EACH = 25


def main() -> None:
    """Measures and prints one table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--fps", type=int, nargs="+", default=[5, 25])
    asked = options.parse_args()
    print("| codec | frames/s | at first, ms | then, ms |")
    print("|---|---|---|---|")
    for codec in ("h264", "hevc"):
        for fps in asked.fps:
            delays_ms = _delays_ms(codec, fps)
            first, then = (median(part) for part in (delays_ms[:_EACH], delays_ms[-_EACH:]))
            print(f"| {codec} | {fps} | {first:.1f} | {then:.1f} |", flush=True)


def _delays_ms(codec: str, fps: int) -> list[float]:
    """Of each picture of a connection, in their order."""
    with tempfile.TemporaryDirectory(prefix="streamd-bench-") as folder, RtspServer() as server:
        scene = Scene(1, *_SIZE, fps=fps)
        clip = write_clip(Path(folder) / "camera.mp4", scene, 10.0, codec)
        mount = server.mount("/camera", clip.path)
        sent_s: list[float] = []
        mount.on_frame = lambda _, __: sent_s.append(time.monotonic())
        feed = source_for(CameraConfig(id="camera", url=mount.url)).open()
        came_s: list[float] = []
        for _ in feed.pictures():
            came_s.append(time.monotonic())
            if len(came_s) == _LEARNS + 2 * _EACH:
                break
        time.sleep(2 / fps)  # the server tells of a picture after it has sent it
        feed.close()
    # What came while the connection was opened waited for that.
    pairs = list(zip(sent_s, came_s, strict=False))[_EACH // 5 :]
    return [1000 * (came - sent) for sent, came in pairs]


if __name__ == "__main__":
    main()
