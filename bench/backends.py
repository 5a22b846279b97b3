"""Every backend and precision of this machine: how true to the model, and how fast, in one run.

    python -m bench.backends --model yolov8n.onnx --pictures street.mp4

Agreement, mean IoU and score difference are those of the proof that every build makes, here without
a bar. For the rates all engines are loaded, each is driven in turn with its own number of batches
in flight, again and again; medians are printed. Engines that cannot be built say why.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from itertools import product
from statistics import median
from threading import Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamd.config import ModelConfig
from streamd.engines import ModelInfo, Runner, installed_backends, runner_count
from streamd.engines.model_file import inspect_model
from streamd.errors import EngineError
from streamd.models.engine_loader import LoadedEngine, load_engine

PRECISIONS = ("fp32", "bf16", "fp16", "int8")
ROUNDS = 5
TURN_S = 2.0


@dataclass(frozen=True)
class Contender:
    """An engine with its runners, and the rates that it reached."""

    name: str
    loaded: LoadedEngine
    runners: list[Runner]
    rates: list[float]


def main() -> None:
    """Measures and prints one table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--model", required=True)
    options.add_argument("--pictures", required=True, help="video, image or folder")
    options.add_argument("--batch-size", type=int, default=4)
    asked = options.parse_args()
    model = inspect_model(asked.model)
    with tempfile.TemporaryDirectory(prefix="streamd-bench-") as cache:
        common = {
            "path": asked.model,
            "batch_size": asked.batch_size,
            "calibrate": asked.pictures,
            "min_agreement": 0,
            "cache": cache,
        }
        contenders = list(filter(None, (contender(model, common, *pair) for pair in pairs())))
        images = blank_images(model, asked.batch_size)
        for _ in range(ROUNDS):
            for each in contenders:
                each.rates.append(rate(each.runners, images))
    report(model, contenders)


def pairs() -> list[tuple[str, str]]:
    """Backends that are installed, each with every precision."""
    return list(product(installed_backends(), PRECISIONS))


def contender(
    model: ModelInfo, common: dict[str, Any], backend: str, precision: str
) -> Contender | None:
    """The engine, built and loaded; None where this machine has none."""
    config = ModelConfig.model_validate({**common, "backend": backend, "precision": precision})
    try:
        loaded = load_engine(model, config)
    except EngineError as error:
        print(f"{backend} {precision}: {error}", flush=True)
        return None
    runners = loaded.engine.runners(runner_count(config, loaded.engine.spec))
    return Contender(f"{backend} {precision}", loaded, runners, [])


def blank_images(model: ModelInfo, count: int) -> list[NDArray[np.uint8]]:
    """Noise of the model's input size."""
    rng = np.random.default_rng(0)
    shape = (model.shape.height, model.shape.width, 3)
    return [rng.integers(0, 255, shape, np.uint8) for _ in range(count)]


def rate(runners: list[Runner], images: list[NDArray[np.uint8]]) -> float:
    """Frames a second with all `runners` busy."""
    done = [0] * len(runners)
    began_s = time.monotonic()

    def drive(number: int, runner: Runner) -> None:
        while time.monotonic() - began_s < TURN_S:
            runner.load(images)
            runner.run()
            done[number] += len(images)

    threads = [Thread(target=drive, args=pair) for pair in enumerate(runners)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.monotonic() - began_s)


def report(model: ModelInfo, contenders: list[Contender]) -> None:
    """One line an engine; the rate also as a multiple of the slowest's."""
    if not contenders:
        raise SystemExit("no engine could be built")
    rates = [median(each.rates) for each in contenders]
    print(f"\n{model.name} at {model.shape}, medians of {ROUNDS} alternating turns\n")
    print("| engine | device | agreement | mean IoU | score diff. | frames/s | times |")
    print("|---|---|---|---|---|---|---|")
    for each, fps in zip(contenders, rates, strict=True):
        proof, spec = each.loaded.proof, each.loaded.engine.spec
        print(
            f"| {each.name} | {spec.device} | {proof['agreement']:.4f} | {proof['mean_iou']:.4f} "
            f"| {proof['mean_score_difference']:.4f} | {fps:.1f} | {fps / min(rates):.2f} |"
        )


if __name__ == "__main__":
    main()
