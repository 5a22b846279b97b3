"""What a machine lacks for CUDA, told by a driver that is played."""

import ctypes
from typing import Any

import pytest

from streamd.nvidia import decoder_missing, driver_missing


class Driver:
    """`started` is what cuInit answers."""

    def __init__(self, started: int, gpus: int) -> None:
        self._started, self._gpus = started, gpus

    def cuInit(self, flags: int) -> int:  # noqa: N802  # CUDA's name
        return self._started

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        if not self._started:
            count._obj.value = self._gpus
        return self._started

    def cuGetErrorString(self, code: ctypes.c_int, text: Any) -> int:  # noqa: N802
        if code.value != 802:
            return 1  # CUDA_ERROR_INVALID_VALUE: it knows no such error
        text._obj.value = b"system not yet initialized"
        return 0


@pytest.mark.parametrize(
    ("started", "gpus", "missing"),
    [
        (0, 1, None),
        (0, 0, "no NVIDIA GPU was found"),
        (100, 0, "no NVIDIA GPU was found"),
        (802, 0, "the NVIDIA driver does not start: system not yet initialized (CUDA error 802)"),
        (34, 0, "the NVIDIA driver does not start: unknown error (CUDA error 34)"),
    ],
)
def test_what_the_driver_says(
    monkeypatch: pytest.MonkeyPatch, started: int, gpus: int, missing: str | None
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(started, gpus))
    assert driver_missing() == missing


@pytest.mark.parametrize(
    ("gpus", "decodes", "missing"),
    [
        (1, True, None),
        (1, False, "the NVIDIA driver is here without its libnvcuvid.so.1"),
        (0, False, "no NVIDIA GPU was found"),
    ],
)
def test_a_driver_without_its_decoder_is_told(
    monkeypatch: pytest.MonkeyPatch, gpus: int, decodes: bool, missing: str | None
) -> None:
    def load(name: str) -> Driver:
        if name == "libnvcuvid.so.1" and not decodes:
            raise OSError(f"{name}: cannot open shared object file")
        return Driver(0, gpus)

    monkeypatch.setattr(ctypes, "CDLL", load)
    said = decoder_missing()
    assert said is None if missing is None else said and said.startswith(missing)
