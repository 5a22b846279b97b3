"""What input shapes are worth, and what a fleet of mixed aspects costs.

    python -m bench.shapes --model yolov8n.onnx

Four files at full speed, three fleets: all 16:9, all 4:3, and two of each; the first also with a
square input. They take turns, and medians of the rounds are printed. The mixed fleet may cost no
more than the sum of its parts: its rate is compared with the one at which half of the frames cost
what they do in either fleet alone.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median

from bench.full_speed import fps_of, looped
from streamd.demo.clips import write_clip
from streamd.scenes import Scene
from streamd.testing.redis_server import RedisServer

_CLIP_S = 20.0
_SIZES = {"wide": (1280, 720), "old": (960, 720)}
FLEETS = {
    "16:9": (("wide",) * 4, "auto"),
    "16:9, square input": (("wide",) * 4, "square"),
    "4:3": (("old",) * 4, "auto"),
    "mixed": (("wide", "wide", "old", "old"), "auto"),
}


def main() -> None:
    """Measures and prints one table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--model", required=True)
    options.add_argument("--square", type=int, default=640, help="side of the square input")
    options.add_argument("--seconds", type=float, default=12.0, help="of each fleet in a round")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--json", action="store_true", help="print the ratios as JSON")
    asked = options.parse_args()
    rates = measure(asked.model, asked.square, asked.seconds, asked.rounds)
    found = ratios(rates)
    if asked.json:
        print(json.dumps(found))
        return
    print("| fleet | frames/s |\n|---|---|")
    for name, values in rates.items():
        print(f"| {name} | {median(values):.1f} |")
    for name, value in found.items():
        print(f"{name}: {value:.2f}")


def measure(model: str, square: int, seconds: float, rounds: int) -> dict[str, list[float]]:
    """Frames a second of each fleet, round by round."""
    rates: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="streamd-bench-") as name, RedisServer() as server:
        folder = Path(name)
        clips = {
            kind: write_clip(folder / f"{kind}.mp4", Scene(1, *size, fps=10), _CLIP_S).path
            for kind, size in _SIZES.items()
        }
        for _ in range(rounds):
            for fleet, (kinds, shape) in FLEETS.items():
                settings = looped(
                    [clips[kind] for kind in kinds],
                    {"path": model, "imgsz": square if shape == "square" else "auto"},
                    server.url,
                )
                rates[fleet].append(fps_of(folder, settings, seconds))
    return rates


def ratios(rates: dict[str, list[float]]) -> dict[str, float]:
    """Medians of the ratios within each round."""
    rounds = list(zip(*(rates[fleet] for fleet in FLEETS), strict=True))
    return {
        "16:9 against a square input": median(wide / square for wide, square, _, _ in rounds),
        "4:3 against a square input": median(old / square for _, square, old, _ in rounds),
        "mixed against the sum of its parts": median(
            mixed / (2 / (1 / wide + 1 / old)) for wide, _, old, mixed in rounds
        ),
    }


if __name__ == "__main__":
    main()
