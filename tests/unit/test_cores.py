"""How many cores a process may use, by what stands in /proc and /sys in different set-ups."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from streamd.linux.cores import available_cores

ALL = len(os.sched_getaffinity(0))


def cores(tmp_path: Path, own: str, files: dict[str, str]) -> int:
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "own").write_text(own)
    return available_cores(tmp_path / "own", tmp_path / "cgroup")


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        pytest.param("0::/\n", {}, ALL, id="no limit, no file"),
        pytest.param("0::/\n", {"cpu.max": "max 100000\n"}, ALL, id="max"),
        pytest.param("0::/\n", {"cpu.max": "100000 100000\n"}, 1, id="a container's own group"),
        pytest.param("0::/\n", {"cpu.max": "20000 100000\n"}, 1, id="a fifth of a core"),
        pytest.param("0::/\n", {"cpu.max": "99900000 100000\n"}, ALL, id="more than there are"),
        pytest.param(
            "0::/a.slice/b.service\n",
            {"a.slice/cpu.max": "100000 100000\n", "a.slice/b.service/cpu.max": "max 100000\n"},
            1,
            id="the group above",
        ),
        pytest.param(
            "12:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n0::/docker/x\n",
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "50000\n",
                "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            1,
            id="version 1, in a container",
        ),
        pytest.param(
            "3:cpu:/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            ALL,
            id="version 1, no limit",
        ),
        pytest.param("0::/\n", {"cpu.max": "100000 0\n"}, ALL, id="nonsense"),
        pytest.param("0::/\n", {"cpu.max": ""}, ALL, id="empty"),
    ],
)
def test_a_quota_of_this_group_or_one_above_counts(
    tmp_path: Path, own: str, files: dict[str, str], expected: int
) -> None:
    assert cores(tmp_path, own, files) == expected


def test_a_part_of_a_core_counts_as_one(tmp_path: Path) -> None:
    expected = min(ALL, 2)
    assert cores(tmp_path, "0::/\n", {"cpu.max": "110000 100000\n"}) == expected


def test_a_process_that_is_kept_to_one_core_has_one() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from streamd.linux.cores import available_cores; print(available_cores())"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert answer.stdout == "1\n"
