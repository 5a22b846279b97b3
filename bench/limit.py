"""Files at full speed against the limit that their parts set.

    python -m bench.limit --model yolov8n.onnx

Each part is measured alone, in CPU seconds a frame, with nothing else to do and all cores busy with
it (two threads of one core are slower than one): decoding and scaling in a process a core, the
engine with all its runners. They have to share the cores, so no daemon can be faster than
cores / (decode + scale + infer). The daemon loops over the same files; its rate is that of a window
in which it is at full speed. Parts and daemon take turns; the ratio is that of each round, and
medians are printed.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median

import av
import numpy as np

from bench.daemon import SIZE, engine_alone, make_clips
from bench.full_speed import fps_of, looped
from streamd.clock import SystemClock
from streamd.config import ModelConfig
from streamd.engines.model_file import inspect_model
from streamd.ingest.access_units import Picture
from streamd.ingest.decoder import Decoder
from streamd.ingest.letterbox import FastScaler, Letterbox
from streamd.linux.cores import available_cores
from streamd.slots import InputShape
from streamd.testing.redis_server import RedisServer

_CLIP_S = 30.0


@dataclass(frozen=True, slots=True)
class Part:
    """CPU seconds a frame."""

    decode_s: float
    scale_s: float
    infer_s: float

    @property
    def limit_fps(self) -> float:
        """What the cores could do at best."""
        return available_cores() / (self.decode_s + self.scale_s + self.infer_s)


def main() -> None:
    """Measures and prints one table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--model", required=True)
    options.add_argument("--imgsz", default="auto", help="as in the configuration")
    options.add_argument("--batch-size", type=int, default=8)
    options.add_argument("--seconds", type=float, default=20.0, help="of the daemon in a round")
    options.add_argument("--rounds", type=int, default=5)
    asked = options.parse_args()
    imgsz = asked.imgsz if asked.imgsz == "auto" else int(asked.imgsz)
    config = ModelConfig(path=asked.model, batch_size=asked.batch_size, imgsz=imgsz)
    shape = Letterbox.best(*SIZE, inspect_model(config.path, imgsz).shapes).shape
    parts, rates = list[Part](), list[float]()
    with tempfile.TemporaryDirectory(prefix="streamd-bench-") as folder, RedisServer() as server:
        clips = make_clips(Path(folder) / "clips", _CLIP_S)
        for number in range(1, asked.rounds + 1):
            alone = engine_alone(config)
            parts.append(Part(*read_on_all_cores(clips[0], shape), alone.cpu_ms / 1000))
            model = config.model_dump(mode="json", include={"path", "batch_size", "imgsz"})
            settings = looped(clips, model, server.url)
            rates.append(fps_of(Path(folder), settings, asked.seconds))
            print(
                f"round {number}: limit {parts[-1].limit_fps:.1f} fps, daemon {rates[-1]:.1f} fps, "
                f"ratio {rates[-1] / parts[-1].limit_fps:.3f}; engine alone {alone.fps:.1f} fps",
                flush=True,
            )
    ratios = [rate / part.limit_fps for rate, part in zip(rates, parts, strict=True)]
    print(f"\nmedians of {asked.rounds} rounds, 4 files of {SIZE[0]}x{SIZE[1]}, {alone.engine}")
    print(f"decode   {1000 * median(part.decode_s for part in parts):8.3f} ms of CPU a frame")
    print(f"scale    {1000 * median(part.scale_s for part in parts):8.3f}")
    print(f"infer    {1000 * median(part.infer_s for part in parts):8.3f}")
    print(f"limit    {median(part.limit_fps for part in parts):8.1f} fps")
    print(f"daemon   {median(rates):8.1f} fps")
    print(f"ratio    {median(ratios):8.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


def read_on_all_cores(clip: Path, shape: InputShape) -> tuple[float, float]:
    """CPU seconds a frame of decoding and of scaling, with all cores busy with it."""
    with get_context("spawn").Pool(cores := available_cores()) as pool:
        costs = pool.starmap(read_alone, [(clip, shape)] * cores, chunksize=1)
    return fmean(cost[0] for cost in costs), fmean(cost[1] for cost in costs)


def read_alone(clip: Path, shape: InputShape) -> tuple[float, float]:
    """CPU seconds a frame of decoding and of scaling, as the daemon does them."""
    scaler, image = FastScaler(), np.zeros((shape.height, shape.width, 3), np.uint8)
    marks = []
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        box = Letterbox.fit(stream.codec_context.width, stream.codec_context.height, shape)
        decoder = Decoder(stream, SystemClock())
        for packet in container.demux(stream):
            began_ns = time.thread_time_ns()
            frames = decoder.decode(Picture.whole(packet, "h264")).frames
            decoded_ns = time.thread_time_ns()
            for frame in frames:
                box.inner(image)[...] = scaler.scale(frame.image, box)
            marks.append((began_ns, decoded_ns, time.thread_time_ns()))
    frames_read = len(marks) - 1
    decode_ns = sum(decoded - began for began, decoded, _ in marks)
    scale_ns = sum(done - decoded for _, decoded, done in marks)
    return decode_ns / frames_read / 1e9, scale_ns / frames_read / 1e9


if __name__ == "__main__":
    main()
