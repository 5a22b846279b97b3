"""How busy NVIDIA's GPUs are, by NVML (nvidia-ml-py, which comes with the extra `tensorrt`)."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True, slots=True)
class GpuLoad:
    """One GPU: shares of time 0 to 1, bytes, degrees Celsius. None where the card tells none."""

    index: int
    utilization: float | None
    decoder: float | None
    memory_used: int | None
    memory_total: int | None
    temperature_c: float | None


class GpuMeter:
    """Reads all GPUs that the driver shows; none where there is no driver or no NVML."""

    def __init__(self, nvml: Any = None) -> None:
        self._nvml = nvml
        self._looked = False
        self._handles: list[Any] = []

    def read(self) -> list[GpuLoad]:
        """The GPUs as they are now."""
        if not self._looked:
            self._looked = True
            self._handles = self._open()
        return [self._load(index, handle) for index, handle in enumerate(self._handles)]

    def _open(self) -> list[Any]:
        try:
            nvml = self._nvml = self._nvml or import_module("pynvml")
        except ImportError:
            return []
        try:
            nvml.nvmlInit()
            return [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        except nvml.NVMLError:
            return []

    def _load(self, index: int, handle: Any) -> GpuLoad:
        nvml = self._nvml
        rates = self._try(nvml.nvmlDeviceGetUtilizationRates, handle)
        decoder = self._try(nvml.nvmlDeviceGetDecoderUtilization, handle)
        memory = self._try(nvml.nvmlDeviceGetMemoryInfo, handle)
        heat = self._try(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
        return GpuLoad(
            index=index,
            utilization=None if rates is None else rates.gpu / 100,
            decoder=None if decoder is None else decoder[0] / 100,
            memory_used=None if memory is None else int(memory.used),
            memory_total=None if memory is None else int(memory.total),
            temperature_c=None if heat is None else float(heat),
        )

    def _try(self, ask: Callable[..., Any], *arguments: Any) -> Any:
        """The answer; None where the card does not know."""
        with suppress(self._nvml.NVMLError):
            return ask(*arguments)
        return None
