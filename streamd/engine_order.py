"""Which engine a configuration asks for, and whether the cache has it."""

from streamd.child import Tell
from streamd.config import ModelConfig, mask_url
from streamd.engines.cache import EngineCache, EngineKey, Entry, file_sha256
from streamd.engines.contract import (
    CANDIDATES,
    CONTRACT_VERSION,
    EngineOrder,
    ModelInfo,
    Platform,
    batch_ladder,
)
from streamd.engines.model_path import find_model
from streamd.errors import EngineError
from streamd.slots import InputShape


def order_for(
    model: ModelInfo, config: ModelConfig, shapes: tuple[InputShape, ...] | None = None
) -> EngineOrder:
    """What `config` asks of a backend: `model` at `shapes`, all of its own by default."""
    return EngineOrder(
        model=model,
        shapes=shapes or model.shapes,
        ladder=model.ladder or batch_ladder(config.batch_size),
        precision=config.precision,
    )


def key_of(order: EngineOrder, config: ModelConfig, backend: str, platform: Platform) -> EngineKey:
    """What an engine of `order` is found by."""
    calibrated = config.precision == "int8"
    frames = f" calibrated with {mask_url(config.calibrate or '')}" if calibrated else ""
    return EngineKey(
        model=order.model.name,
        sha256=file_sha256(find_model(order.model.path)),
        backend=backend,
        version=platform.version,
        device=platform.device,
        precision=f"{config.precision}{frames}",
        shapes=" ".join(str(shape) for shape in order.shapes),
        ladder=" ".join(str(size) for size in order.ladder),
        graph=f"{CONTRACT_VERSION}/{CANDIDATES}",
    )


def find_whole(cache: EngineCache, key: EngineKey, tell: Tell) -> Entry | None:
    """The engine of `key`; a damaged one is removed, which `tell` hears of."""
    try:
        return cache.find(key)
    except EngineError as error:
        tell(f"{error}; building it again")
        cache.remove(cache.root / key.folder)
        return None
