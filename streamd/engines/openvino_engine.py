"""The OpenVINO backend: CPUs."""

import os
from collections.abc import Sequence

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import properties

from streamd.config import ModelConfig
from streamd.engines.contract import EngineSpec, ModelInfo, Runner, batch_ladder, rung
from streamd.engines.onnx_contract import with_contract
from streamd.engines.onnx_model import read_model
from streamd.errors import EngineError

_TYPES = {"fp32": ov.Type.f32, "bf16": ov.Type.bf16, "fp16": ov.Type.f16}


class OpenVinoEngine:
    """One compiled network for each rung of the ladder, all with the contract's input and output.

    `streams` networks may run at once; each gets its share of the cores.
    """

    def __init__(self, model: ModelInfo, config: ModelConfig, streams: int) -> None:
        core = ov.Core()
        device = "CPU"
        precision = self._precision(core, device, config.precision)
        ladder = batch_ladder(config.batch_size)
        self.spec = EngineSpec("openvino", device, precision, (model.shape,), ladder)
        settings = {
            properties.hint.inference_precision(): _TYPES[precision],
            properties.num_streams(): streams,
            properties.inference_num_threads(): os.cpu_count() or 1,
            properties.hint.performance_mode(): properties.hint.PerformanceMode.THROUGHPUT,
        }
        graph = with_contract(read_model(model.path), model.path, model.shape)
        try:
            # The Model objects must outlive the compilation: letting them go crashed OpenVINO.
            self._models = [self._sized(core, graph.SerializeToString(), n) for n in ladder]
            self._networks = {
                n: core.compile_model(network, device, settings)
                for n, network in zip(ladder, self._models, strict=True)
            }
        except RuntimeError as error:
            line = str(error).strip().splitlines()[-1]
            raise EngineError(f"{model.path}: OpenVINO cannot build it: {line}") from None

    def runners(self, count: int) -> list[Runner]:
        """See Engine."""
        return [OpenVinoRunner(self._networks, self.spec) for _ in range(count)]

    @staticmethod
    def _sized(core: ov.Core, graph: bytes, batch: int) -> ov.Model:
        network = core.read_model(graph, b"")
        shape = network.input(0).partial_shape
        shape[0] = batch
        network.reshape(shape)
        return network

    @staticmethod
    def _precision(core: ov.Core, device: str, wanted: str) -> str:
        able = core.get_property(device, properties.device.capabilities())
        if wanted == "auto":
            return "bf16" if "BF16" in able else "fp32"
        if wanted.upper() not in able:
            has = ", ".join(p.lower() for p in able if p in ("FP32", "FP16", "BF16"))
            raise EngineError(f"model.precision: this CPU has no {wanted}; it has {has}")
        return wanted


class OpenVinoRunner:
    """An infer request for each rung, with its input tensor allocated once."""

    def __init__(self, networks: dict[int, ov.CompiledModel], spec: EngineSpec) -> None:
        self._ladder = spec.ladder
        self._requests = {n: network.create_infer_request() for n, network in networks.items()}
        self._inputs = {n: request.get_input_tensor().data for n, request in self._requests.items()}
        self._count = 0

    def load(self, images: Sequence[NDArray[np.uint8]]) -> None:
        """See Runner."""
        self._count = len(images)
        batch = self._inputs[rung(self._ladder, self._count)]
        for row, image in zip(batch, images, strict=False):
            row[...] = image

    def run(self) -> NDArray[np.float32]:
        """See Runner."""
        request = self._requests[rung(self._ladder, self._count)]
        try:
            request.infer()
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed: {str(error).splitlines()[-1]}") from None
        candidates: NDArray[np.float32] = request.get_output_tensor().data[: self._count].copy()
        return candidates
