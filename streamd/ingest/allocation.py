"""The most memory that FFmpeg takes in one piece."""

import ctypes
from functools import cache
from pathlib import Path

import av

# A picture of 8192 x 4320 has 142 MB with four bytes a pixel. Without a bound, one packet of a
# hostile camera, never ended, grows to 2 GB.
LARGEST_BYTES = 160 * 1024 * 1024


@cache
def bound_allocations() -> bool:
    """Sets the bound for this process, once (av_max_alloc). False where libavutil is not found.

    PyAV has no call for it; the library is the one that PyAV has loaded.
    """
    name = f"libavutil{{}}.so.{av.library_versions['libavutil'][0]}"
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line[line.find("/") :] if "/" in line else ""
        if _is_library(Path(path).name, name):
            ctypes.CDLL(path).av_max_alloc(ctypes.c_size_t(LARGEST_BYTES))
            return True
    return False


def _is_library(file: str, name: str) -> bool:
    """Whether `file` is `name`, in a wheel with a hash: libavutil-1a2b3c.so.60.26.100."""
    before, _, after = name.partition("{}")
    return file.startswith(before) and after in file
