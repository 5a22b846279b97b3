"""What becomes of a benchmark when a part of it crashes, hangs or fails."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import argparse, os, signal, subprocess, sys, time
from bench.parts import Part, Row, run_all, run_one
from streamd.errors import StreamdError

def well(shared):
    yield Row("figure", str(shared))

def fails(shared):
    yield Row("before", "it failed")
    raise StreamdError("no such thing")

def crashes(shared):
    yield Row("before", "it crashed")
    os.kill(os.getpid(), signal.SIGSEGV)

def hangs(shared):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield Row("child", str(child.pid))
    time.sleep(600)

def here():
    return None

PARTS = (
    Part("hanging", here, hangs, 6),
    Part("crashing", here, crashes, 60),
    Part("failing", here, fails, 60),
    Part("lacking", lambda: "no card", well, 60),
    Part("following", here, well, 60, needs="failing"),
    Part("well", here, well, 60),
    Part("after it", here, well, 60, needs="well"),
)
options = argparse.ArgumentParser()
options.add_argument("--whole", type=float, default=300)
options.add_argument("--part")
options.add_argument("--limit", type=float)
asked = options.parse_args()
if asked.part:
    sys.exit(run_one({part.name: part for part in PARTS}[asked.part], 42, asked.limit))
print("failed", run_all(PARTS, [sys.executable, __file__], asked.whole))
"""


def run(tmp_path: Path, *arguments: str) -> str:
    script = tmp_path / "benchmark.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    return done.stdout


def is_gone(process: Path) -> bool:
    """Whether it has ended, if nobody has asked for its exit status yet."""
    try:
        return process.joinpath("stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_part_that_fails_is_told_and_the_next_ones_run(tmp_path: Path) -> None:
    said = run(tmp_path)
    rows = [line.split("  ", 1) for line in said.partition("in short\n")[2].splitlines()]
    assert {row[0].strip(): row[1].strip() for row in rows if len(row) == 2} == {
        "hanging": "FAILED: not done in 6 s",
        "crashing": "FAILED: ended by SIGSEGV",
        "failing": "FAILED: see above",
        "lacking": "did not run: no card",
        "following": "did not run: it needs 'failing'",
        "well": "done",
        "after it": "done",
    }
    assert said.endswith("failed 3\n")
    assert "StreamdError: no such thing" in said
    child = next(line.split()[-1] for line in said.splitlines() if line.startswith("child "))
    assert is_gone(Path("/proc", child))


def test_no_part_begins_without_time(tmp_path: Path) -> None:
    said = run(tmp_path, "--whole", "1")
    assert said.count("did not run: no time left") == 2 * 4
    assert said.endswith("failed 0\n")
