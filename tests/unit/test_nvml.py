"""GPUs as NVML tells of them, played by a driver of two cards."""

from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from streamd.http.nvml import GpuLoad, GpuMeter


class Driver:
    """Two GPUs, of which the second has no decoder and tells no temperature."""

    NVMLError = pynvml.NVMLError
    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU

    def __init__(self, *, starts: bool = True) -> None:
        self.starts = starts
        self.inits = 0

    def nvmlInit(self) -> None:  # noqa: N802  # NVML's name
        self.inits += 1
        if not self.starts:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(gpu=70 + handle, memory=1)

    def nvmlDeviceGetDecoderUtilization(self, handle: int) -> list[int]:  # noqa: N802
        self._only_the_first(handle)
        return [55, 167000]

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(used=10 + handle, total=100, free=90)

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:  # noqa: N802
        assert sensor == pynvml.NVML_TEMPERATURE_GPU
        self._only_the_first(handle)
        return 61

    @staticmethod
    def _only_the_first(handle: int) -> None:
        if handle:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


def test_each_gpu_tells_what_it_knows() -> None:
    driver = Driver()
    meter = GpuMeter(driver)
    for _ in range(2):
        assert meter.read() == [
            GpuLoad(0, 0.7, 0.55, 10, 100, 61.0),
            GpuLoad(1, 0.71, None, 11, 100, None),
        ]
    assert driver.inits == 1


def test_without_a_driver_there_are_none_and_it_is_asked_once() -> None:
    driver = Driver(starts=False)
    meter = GpuMeter(driver)
    assert meter.read() == meter.read() == []
    assert driver.inits == 1


def test_all_that_is_called_is_in_the_real_binding() -> None:
    for name in vars(Driver):
        if name.startswith("nvml"):
            assert callable(getattr(pynvml, name))


def test_without_the_package_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    assert GpuMeter().read() == []
