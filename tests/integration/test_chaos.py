"""A short run of what `make chaos` does at length."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_faults_drawn_at_random_lose_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.chaos", "--faults", "14", "--seed", "4", "--gap-s", "0.5"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lost 0, twice 0, out of order 0" in done.stdout
