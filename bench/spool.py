"""What the spool costs an event: to disk, and back.

    python -m bench.spool

Batches of eight events with three objects each, by fsync policy; medians of five rounds.
"""

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import get_args

from streamd.publishing.spool import Fsync, Spool

_BATCHES, _BATCH, _BYTES = 250, 8, 600
_ROUNDS = 5


def main() -> None:
    """Measures and prints one table."""
    print("| fsync | append, µs an event | peek and remove, µs an event |\n|---|---|---|")
    for policy in get_args(Fsync):
        rounds = [measure(policy) for _ in range(_ROUNDS)]
        append_us, remove_us = (median(column) for column in zip(*rounds, strict=True))
        print(f"| {policy} | {append_us:.1f} | {remove_us:.1f} |")


def measure(policy: Fsync) -> tuple[float, float]:
    """Microseconds an event, in and out."""
    records = [bytes(_BYTES)] * _BATCH
    with tempfile.TemporaryDirectory(prefix="streamd-bench-") as folder:
        spool = Spool(Path(folder), max_bytes=100_000_000, fsync=policy)
        began_s = time.perf_counter()
        for _ in range(_BATCHES):
            spool.append(records)
        stored_s = time.perf_counter()
        while spool.peek(512):
            spool.remove()
        done_s = time.perf_counter()
        spool.close()
    count = _BATCHES * _BATCH
    return 1e6 * (stored_s - began_s) / count, 1e6 * (done_s - stored_s) / count


if __name__ == "__main__":
    main()
