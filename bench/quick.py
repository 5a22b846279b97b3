"""The regression guard: ratios of this machine, now, against the ones that were kept.

    make bench-quick                      # fails where a ratio dropped by more than a tenth, twice
    python -m bench.quick --keep          # writes this kind of machine into bench/baseline.json

Ratios, not rates, so that another machine may be compared; under three minutes, with the shipped
model. What inference costs beside the rest depends on the CPU's arithmetic most of all, so there is
a baseline for each precision that an engine chooses. Not part of the tests: a machine that is busy
with something else fails it for no reason.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median

from bench.daemon import engine_alone
from bench.shapes import measure, ratios
from streamd.config import ModelConfig

BASELINE = Path(__file__).with_name("baseline.json")
_MODEL = "engines/shapes.onnx"
_SQUARE = 320
_MAY_DROP = 0.10


def main() -> None:
    """Measures, compares, and exits with 1 where something dropped twice."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument(
        "--keep", action="store_true", help="take the medians of three times as the baseline"
    )
    asked = options.parse_args()
    baselines = json.loads(BASELINE.read_text())
    precision, found = now()
    if asked.keep:
        runs = [found, *(now()[1] for _ in range(2))]
        baselines[precision] = {name: median(run[name] for run in runs) for name in found}
        BASELINE.write_text(json.dumps(baselines, indent=1) + "\n")
        compare(found, baselines[precision])
        return
    if precision not in baselines:
        sys.exit(f"{BASELINE}: has no ratios of {precision} engines; --keep adds this machine's")
    dropped = compare(found, baselines[precision])
    if dropped:
        print("once more, since the machine may have been busy:", flush=True)
        dropped &= compare(now()[1], baselines[precision])
    if dropped:
        print(f"dropped by more than {_MAY_DROP:.0%}, twice: {', '.join(sorted(dropped))}")
    sys.exit(bool(dropped))


def compare(found: dict[str, float], kept: dict[str, float]) -> set[str]:
    """Prints each ratio beside the one that was kept; returns the names of those that dropped."""
    dropped = set()
    for name, value in found.items():
        change = value / kept[name] - 1
        print(f"{name:42} {value:6.3f}, kept {kept[name]:6.3f}, {change:+.1%}", flush=True)
        if change < -_MAY_DROP:
            dropped.add(name)
    return dropped


def now() -> tuple[str, dict[str, float]]:
    """The precision of this machine's engine, and the ratios."""
    rates = measure(_MODEL, _SQUARE, seconds=5.0, rounds=2)
    alone = [engine_alone(ModelConfig(path=_MODEL), seconds=4.0) for _ in range(3)]
    share = median(rates["16:9"]) / median(one.fps for one in alone)
    return alone[0].precision, {**ratios(rates), "daemon against its engine alone": share}


if __name__ == "__main__":
    main()
