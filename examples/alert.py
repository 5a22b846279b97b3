"""Prints a line when a label appears at a camera, and again only after a pause.

python examples/alert.py --label person --pause-s 30
"""

import argparse
import time
from contextlib import suppress

from streamd.client import Subscriber


def main() -> None:
    """Runs until it is interrupted."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--redis", default="redis://localhost:6379/0")
    options.add_argument("--label", required=True)
    options.add_argument("--pause-s", type=float, default=30.0)
    options.add_argument("--start", default="$", help="0: all that is kept")
    asked = options.parse_args()
    told: dict[str, float] = {}
    for event in Subscriber(asked.redis, labels={asked.label}, start=asked.start):
        if event.ts / 1000 - told.get(event.camera, 0.0) >= asked.pause_s:
            told[event.camera] = event.ts / 1000
            when = time.strftime("%H:%M:%S", time.localtime(event.ts / 1000))
            print(f"{when} {event.camera}: {asked.label}", flush=True)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
