"""The regression guard: ratios of this machine, now, against the ones that were kept.

    make bench-quick                      # fails where a ratio dropped by more than a tenth
    python -m bench.quick --keep          # writes bench/baseline.json anew

Ratios, not rates, so that another machine may be compared; under three minutes, with the shipped
model. Not part of the tests: a machine that is busy with something else fails it for no reason.
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
    """Measures, compares, and exits with 1 where something dropped."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument(
        "--keep", action="store_true", help="take what is measured as the baseline"
    )
    asked = options.parse_args()
    found = now()
    if asked.keep:
        BASELINE.write_text(json.dumps(found, indent=1) + "\n")
    kept = json.loads(BASELINE.read_text())
    dropped = []
    for name, value in found.items():
        change = value / kept[name] - 1
        print(f"{name:42} {value:6.3f}, kept {kept[name]:6.3f}, {change:+.1%}")
        dropped += [name] if change < -_MAY_DROP else []
    if dropped:
        print(f"dropped by more than {_MAY_DROP:.0%}: {', '.join(dropped)}")
    sys.exit(bool(dropped))


def now() -> dict[str, float]:
    """The ratios of this machine."""
    rates = measure(_MODEL, _SQUARE, seconds=5.0, rounds=2)
    alone = median(engine_alone(ModelConfig(path=_MODEL), seconds=4.0).fps for _ in range(3))
    return {**ratios(rates), "daemon against its engine alone": median(rates["16:9"]) / alone}


if __name__ == "__main__":
    main()
