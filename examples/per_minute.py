"""Counts, for each minute and camera, the most objects of each label in one frame.

    python examples/per_minute.py

(How many different objects there were would need tracking.)
"""

import argparse
import time
from collections import Counter, defaultdict
from contextlib import suppress

from streamd.client import Subscriber


def main() -> None:
    """Prints each minute once an event of a later one has come; runs until interrupted."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--redis", default="redis://localhost:6379/0")
    options.add_argument("--start", default="$", help="0: all that is kept")
    asked = options.parse_args()
    most: defaultdict[str, Counter[str]] = defaultdict(Counter)
    minute = 0
    for event in Subscriber(asked.redis, start=asked.start):
        if event.ts // 60_000 > minute:
            for camera, counts in sorted(most.items()):
                when = time.strftime("%H:%M", time.localtime(minute * 60))
                print(when, camera, *(f"{n} {label}" for label, n in counts.items()), flush=True)
            most.clear()
            minute = event.ts // 60_000
        for label, count in Counter(item.label for item in event.data.objects).items():
            most[event.camera][label] = max(count, most[event.camera][label])


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
