import subprocess
import sys

SHOW = """
import sys
from pathlib import Path
from streamd.linux.prctl import rewrite_arguments
rewrite_arguments(lambda text: text.replace("s3cret", "*" * {stars}))
print(Path("/proc/self/cmdline").read_text().replace(chr(0), "|"), sys.argv[1], end="")
"""


def shown(stars: int, *arguments: str) -> str:
    command = [sys.executable, "-c", SHOW.format(stars=stars), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_arguments_can_be_shown_otherwise_than_they_are() -> None:
    assert shown(3, "a-s3cret", "b").endswith("|a-***   |b| a-s3cret")


def test_what_grew_is_cut_and_the_next_argument_stays_whole() -> None:
    assert shown(20, "a-s3cret", "b s3cret Ü").endswith(f"|a-{'*' * 6}|b {'*' * 9}| a-s3cret")


def test_a_program_dies_with_who_started_it() -> None:
    parent = """
import subprocess
from streamd.linux.prctl import dying_with_parent
child = subprocess.Popen(dying_with_parent(["sleep", "600"]))
while open(f"/proc/{child.pid}/comm").read() != "sleep\\n":
    pass
print("started")
"""
    # The program holds the pipe open: its end is read when both have ended.
    done = subprocess.run(
        [sys.executable, "-c", parent], stdout=subprocess.PIPE, check=True, timeout=60
    )
    assert done.stdout == b"started\n"
