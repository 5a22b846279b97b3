"""Mutations of good data, and a process that has to bear them."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROUNDS = int(os.environ.get("STREAMD_FUZZ_ROUNDS", "0"))
"""How often the slow variants go round; 0: as the test says."""
SEED = int(os.environ.get("STREAMD_FUZZ_SEED", "1"))


def mutated(data: bytes, rng: random.Random) -> bytes:
    """`data` with a few bits flipped, bytes zeroed, cut out, doubled or replaced by noise."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        if not out:
            break
        # Headers are where lengths and sizes stand.
        end = min(len(out), 256) if rng.random() < 0.4 else len(out)
        at = rng.randrange(end)
        span = min(len(out) - at, rng.choice((1, 2, 4, 40, 400)))
        match rng.randrange(8):
            case 0 | 1 | 2:
                out[at] ^= 1 << rng.randrange(8)
            case 3:
                out[at : at + span] = rng.choice((b"\0", b"\xff")) * span
            case 4:
                out[at : at + span] = rng.randbytes(span)
            case 5:
                del out[at : at + span]
            case 6:
                out[at:at] = out[at : at + span]
            case _:
                del out[at if rng.random() < 0.3 else max(at, len(out) * 3 // 4) :]
    return bytes(out)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a reader made of all its sources."""

    by_url: dict[str, dict[str, Any]]
    rss_mb: int


def read_all(
    urls: Iterable[str | Path], *, threads: int = 2, timeout_s: float = 1, within_s: float
) -> Outcome:
    """Reads `urls` in a process of its own. It must not crash, hang or raise what is not ours."""
    reader = Path(__file__).with_name("hostile_reader.py")
    done = subprocess.run(
        [sys.executable, str(reader), str(threads), str(timeout_s)],
        input="\n".join(map(str, urls)),
        capture_output=True,
        text=True,
        timeout=within_s,
        check=False,
    )
    said = [json.loads(line) for line in done.stdout.splitlines()]
    ended = {line["end"]: line for line in said if "end" in line}
    at = [line["begin"] for line in said if "begin" in line and line["begin"] not in ended]
    assert done.returncode == 0, f"ended with {done.returncode} at {at}: {done.stderr[-2000:]}"
    return Outcome(ended, said[-1]["rss_mb"])
