"""How old results are when a user has them: the daemon beside ultralytics, on live cameras.

    python -m bench.peers_live --peer-python /tmp/peers/bin/python --video street.mp4 \\
        --model yolov8n.onnx --weights yolov8n.pt --weights "batch{batch}_openvino_model"

Simulated RTSP cameras send a video of 16:9 into which each picture's number is painted, and tell
when they sent which. The age of a result is from there to the moment at which the consumer of
ultralytics' generator has it; of streamd's, whose events carry the camera's own time, to its entry
in Redis. All take the newest frame of a camera and leave out what they have no time for, but for
`loop`, which reads on. See bench/peers.py for the others' ways and weights.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import numpy as np

from bench import picture_clock
from bench.live import daemon_on, events_of
from bench.peers import WIDE, peer_options, peer_output, wide_pictures
from streamd.demo.clips import write_images
from streamd.linux.prctl import die_with_parent
from streamd.testing.clip import Clip
from streamd.testing.redis_server import RedisServer
from streamd.testing.rtsp_server import RtspServer

_SETTLES_S = 5.0


def main() -> None:
    """Measures and prints one table."""
    options = peer_options(__doc__)
    options.add_argument("--cameras", type=int, default=32)
    options.add_argument("--fps", type=int, default=5)
    options.add_argument("--seconds", type=float, default=20.0)
    options.add_argument("--rounds", type=int, default=3)
    asked = options.parse_args()
    ages: dict[str, list[list[float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="streamd-bench-") as folder:
        clip = _numbered(asked.video, Path(folder) / "numbered.mp4", asked.fps)
        for _ in range(asked.rounds):
            ages["streamd"].append(_ages_of_daemon(asked, clip))
            for weights in asked.weights:
                for mode in ("streams", "loop"):
                    name = f"ultralytics {mode}, {Path(weights).name}"
                    ages[name].append(_ages_of_peer(asked, f"{mode}-live", weights, clip))
    ours = [float(np.percentile(each, 99)) for each in ages["streamd"]]
    print("| who | results/s | age p50, ms | p99, ms | streamd's p99 as a share of it |")
    print("|---|---|---|---|---|")
    for who, rounds in ages.items():
        p50, p99 = ([float(np.percentile(each, q)) for each in rounds] for q in (50, 99))
        share = median(a / b for a, b in zip(ours, p99, strict=True))
        print(
            f"| {who} | {median(len(each) for each in rounds) / asked.seconds:.0f} "
            f"| {median(p50):.0f} | {median(p99):.0f} | {share:.2f} |"
        )


def _ages_of_daemon(asked: argparse.Namespace, clip: Path) -> list[float]:
    """Milliseconds from a picture's capture, by its camera's clock, to its event in Redis."""
    model = {"path": str(Path(asked.model).absolute()), "imgsz": asked.imgsz or "auto"}
    with (
        RedisServer() as server,
        _cameras(clip, asked.cameras) as (urls, _),
        daemon_on(urls, {}, server, model=model),
    ):
        events_of(server, _SETTLES_S)
        seen = events_of(server, asked.seconds)
    return [at_ms - event.ts for at_ms, event in seen if event.ts_source == "rtcp"]


def _ages_of_peer(asked: argparse.Namespace, mode: str, weights: str, clip: Path) -> list[float]:
    """Milliseconds from a picture's capture to its result, by the number in the picture."""
    with _cameras(clip, asked.cameras) as (urls, log):
        results = peer_output(asked, mode, weights, urls)
        sent: dict[tuple[int, int], list[float]] = defaultdict(list)
        for line in log.read_text().splitlines():
            camera, number, captured_s = json.loads(line)
            sent[camera, number].append(captured_s)
    ages = []
    for camera, number, at_s in results:
        # The clip comes again and again: it is the latest of its pictures with this number.
        captured_s = max((s for s in sent[camera, number] if s <= at_s), default=None)
        if captured_s is None:
            raise SystemExit(f"a result shows picture {number}, which camera {camera} has not sent")
        ages.append(1000 * (at_s - captured_s))
    return ages


def _numbered(video: Path, path: Path, fps: int) -> Path:
    """The middle of `video` in 16:9, at `fps`, with each picture's number."""
    pictures, filmed_fps = wide_pictures(video)
    pictures = pictures[:: max(1, round(filmed_fps / fps))][: picture_clock.LARGEST]
    for number, picture in enumerate(pictures):
        picture_clock.paint(picture, number)
    write_images(path, pictures, WIDE, fps)
    return path


@contextmanager
def _cameras(clip: Path, count: int) -> Iterator[tuple[list[str], Path]]:
    """Addresses, and the file that they write camera, picture and epoch seconds to."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory(prefix="streamd-bench-") as folder:
        log = Path(folder) / "sent"
        process = context.Process(target=_send, args=(clip, count, log, theirs), daemon=True)
        process.start()
        try:
            yield ours.recv(), log
        finally:
            process.kill()
            process.join()
            ours.close()


def _send(clip: Path, count: int, log: Path, connection: Connection) -> None:
    die_with_parent()
    opened = Clip.open(clip)
    with log.open("w", buffering=1) as file, RtspServer() as server:

        def note(camera: int, pictures: int, captured_s: float) -> None:
            print(json.dumps((camera, pictures % len(opened.units), captured_s)), file=file)

        urls = []
        for number in range(count):
            mount = server.mount(f"/{number}", opened)
            mount.on_frame = partial(note, number)
            urls.append(mount.url)
        connection.send(urls)
        connection.poll(None)


if __name__ == "__main__":
    main()
