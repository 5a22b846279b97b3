"""From a model to a proved engine in the cache: graph, backend, proof, in this order."""

import copy
import time
from pathlib import Path
from typing import Any

import onnx

from streamd.config import ModelConfig
from streamd.engines.cache import EngineCache, EngineKey, Entry, new_manifest
from streamd.engines.contract import Backend, BuildOrder, Built, EngineOrder, ModelInfo
from streamd.engines.engine_file import is_engine_file
from streamd.engines.onnx_batch import with_free_batch
from streamd.engines.onnx_contract import with_contract
from streamd.engines.onnx_model import read_model
from streamd.engines.precision import to_half, to_int8
from streamd.errors import EngineError
from streamd.models.engine_order import bar_for, find_whole, order_for
from streamd.models.pictures import Pictures, sampled, scenes
from streamd.models.proof import Proof, prove
from streamd.processes.child import Tell
from streamd.slots import InputShape


def build_order_for(
    model: ModelInfo, config: ModelConfig, shapes: tuple[InputShape, ...] | None = None
) -> BuildOrder:
    """What `order_for` gives, with the graph to build it from."""
    order = order_for(model, config, shapes)
    graph = _Graphs(model, config)
    return BuildOrder(order.model, order.shapes, order.ladder, order.precision, graph)


def build(
    order: BuildOrder, config: ModelConfig, key: EngineKey, backend: Backend, tell: Tell
) -> Entry:
    """The engine of `key`, built unless somebody else just did. Raises EngineError."""
    cache = EngineCache(Path(config.cache))
    cache.prepare(key)
    with cache.building(key) as folder:
        entry = find_whole(cache, key, config, tell)
        if entry is not None:
            return entry
        began_s = time.monotonic()
        built = backend.build(order, folder, tell)
        proof = _proof(order, config, backend, built, folder, tell)
        manifest = new_manifest(key, built, proof, time.monotonic() - began_s)
        return cache.store(folder, manifest)


def _proof(
    order: EngineOrder,
    config: ModelConfig,
    backend: Backend,
    built: Built,
    folder: Path,
    tell: Tell,
) -> dict[str, Any]:
    """What the manifest keeps of the proof. Raises EngineError where the engine fails it."""
    if is_engine_file(order.model.path):
        tell("taken as it is: there is no model to compare it with")
        return {"agreement": None}
    proof = _prove(order, config, backend, built, folder)
    tell(str(proof))
    if not proof.passed:
        raise EngineError(
            f"{order.model.path}: the {built.precision} engine of {backend.name} is not "
            f"accurate enough (bar {proof.bar:g}): {proof}"
        )
    return proof.as_dict()


def _prove(
    order: EngineOrder, config: ModelConfig, backend: Backend, built: Built, folder: Path
) -> Proof:
    from streamd.engines.reference import Reference  # noqa: PLC0415  # brings OpenVINO

    return prove(
        backend.load(order, built, folder),
        order.model,
        lambda shape: Reference(order.model, shape).infer,
        _pictures(config).letterboxed,
        confidence=config.confidence,
        iou=config.iou,
        bar=bar_for(built.precision, config),
    )


def _pictures(config: ModelConfig) -> Pictures:
    if config.calibrate:
        return sampled(config.calibrate)
    if config.precision == "int8":
        raise EngineError("model.calibrate: int8 needs pictures to calibrate with")
    return scenes()


class _Graphs:
    """The model's graph for a backend, by shape and precision; a GraphSource."""

    def __init__(self, model: ModelInfo, config: ModelConfig) -> None:
        self._model = model
        self._config = config
        self._quantised: dict[bool, onnx.ModelProto] = {}

    def __call__(self, shape: InputShape, *, half: bool = False, symmetric: bool = False) -> bytes:
        """See GraphSource."""
        path = self._model.path
        try:
            proto = self._source(symmetric)
            proto = to_half(proto) if half else proto
        except EngineError as error:
            raise EngineError(f"{path}: {error}") from None
        return with_contract(proto, path, shape).SerializeToString()

    def _source(self, symmetric: bool) -> onnx.ModelProto:
        """The model in float32, or quantised; the caller may change it."""
        if self._config.precision != "int8":
            return self._read()
        if symmetric not in self._quantised:
            images = _pictures(self._config).letterboxed(self._model.shape)
            self._quantised[symmetric] = to_int8(self._read(), images, symmetric=symmetric)
        return copy.deepcopy(self._quantised[symmetric])

    def _read(self) -> onnx.ModelProto:
        return with_free_batch(read_model(self._model.path))
