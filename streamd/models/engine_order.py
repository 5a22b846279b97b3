"""Which engine a configuration asks for, and whether the cache has it."""

import hashlib
from contextlib import suppress

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
from streamd.errors import EngineError
from streamd.processes.child import Tell
from streamd.slots import InputShape

_BARS = {"int8": 0.97}
_BAR = 0.99


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
        sha256=_sha256_of(order.model),
        backend=backend,
        version=platform.version,
        device=platform.device,
        precision=f"{config.precision}{frames}",
        shapes=" ".join(str(shape) for shape in order.shapes),
        ladder=" ".join(str(size) for size in order.ladder),
        graph=f"{CONTRACT_VERSION}/{CANDIDATES}",
    )


def _sha256_of(model: ModelInfo) -> str:
    """Of its file; where its weights are in others, of the checksums of all."""
    sums = [file_sha256(file) for file in model.files]
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


def bar_for(precision: str, config: ModelConfig) -> float:
    """The least agreement of an engine of that precision with its model."""
    if config.min_agreement != "auto":
        return config.min_agreement
    return _BARS.get(precision, _BAR)


def find_whole(cache: EngineCache, key: EngineKey, config: ModelConfig, tell: Tell) -> Entry | None:
    """The engine of `key`; a damaged one is removed, which `tell` hears of.

    Raises EngineError where it was proved, but not as well as `config` asks for now.
    """
    try:
        entry = cache.find(key)
    except EngineError as error:
        tell(f"{error}; building it again")
        with suppress(EngineError):  # what somebody else owns stays: it is built elsewhere then
            cache.remove(cache.root / key.folder)
        return None
    if entry is not None:
        _check_proof(entry, config)
    return entry


def _check_proof(entry: Entry, config: ModelConfig) -> None:
    proof, precision = entry.manifest.proof, entry.manifest.built.precision
    bar = bar_for(precision, config)
    # Nothing was compared where no picture held an object, or where there is no model to ask.
    if proof.get("compared") and proof["agreement"] < bar:
        raise EngineError(
            f"{entry.folder}: the {precision} engine that is kept is not accurate enough "
            f"(bar {bar:g}): agreement {proof['agreement']:g}; it was built for less"
        )
