"""The TensorRT backend: NVIDIA GPUs."""

from collections.abc import Callable
from pathlib import Path

from streamd.engines.contract import BuildOrder, Built, Engine, EngineOrder, EngineSpec, Platform
from streamd.engines.cuda import Device
from streamd.engines.engine_file import is_engine_file
from streamd.engines.tensorrt_build import build_order, plan_file
from streamd.engines.tensorrt_foreign import build_around, load_around
from streamd.engines.tensorrt_library import Log, library_version, new_runtime
from streamd.engines.tensorrt_runner import Plan, TensorRtEngine, load_plan
from streamd.slots import InputShape

_STREAMS = 2  # one batch is copied while another is inferred


class TensorRtBackend:
    """Plans of its own making, or one that ultralytics exported.

    Is to be made only where there is a driver: TensorRT crashes without one.
    """

    name = "tensorrt"

    def __init__(self) -> None:
        self._device = Device()

    def platform(self) -> Platform:
        """See Backend."""
        return Platform(library_version(), self._device.name)

    def build(self, order: BuildOrder, folder: Path, tell: Callable[[str], None]) -> Built:
        """See Backend."""
        with self._device.current():
            if is_engine_file(order.model.path):
                return build_around(self._device, order, folder, tell)
            return build_order(order, folder, tell)

    def load(self, order: EngineOrder, built: Built, folder: Path) -> Engine:
        """See Backend."""
        with self._device.current():
            if is_engine_file(order.model.path):
                plans = {order.shapes[0]: load_around(order, folder)}
            else:
                plans = _load_order(order, folder)
        spec = EngineSpec(
            self.name, self._device.name, built.precision, order.shapes, order.ladder, _STREAMS
        )
        return TensorRtEngine(self._device, plans, spec)


def _load_order(order: EngineOrder, folder: Path) -> dict[InputShape, tuple[Plan, ...]]:
    """The plans that `build_order` wrote; their profiles are in the ladder's order."""
    log = Log()
    runtime = new_runtime(log)
    profiles = {size: number for number, size in enumerate(order.ladder)}
    files = {shape: plan_file(folder, shape) for shape in order.shapes}
    return {
        shape: (load_plan(runtime, log, file.read_bytes(), profiles, file),)
        for shape, file in files.items()
    }
