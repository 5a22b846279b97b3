import os
from pathlib import Path
from typing import Any

import onnx
import pytest

from streamd.config import ModelConfig
from streamd.engines.cache import EngineCache
from streamd.engines.contract import Platform
from streamd.engines.model_file import inspect_model
from streamd.errors import EngineError
from streamd.models.engine_loader import load_engine
from streamd.models.engine_order import key_of, order_for

from .fakes import write_model


@pytest.fixture
def config(tmp_path: Path) -> ModelConfig:
    write_model(tmp_path / "m.onnx", (6, 9))
    return ModelConfig(
        path=str(tmp_path / "m.onnx"),
        backend="onnxruntime",
        batch_size=1,
        min_agreement=0.0,
        cache=str(tmp_path / "engines"),
    )


@pytest.fixture
def read_only(config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> list[ModelConfig]:
    """The cache holds the engine of `config`, and cannot be written to; the builds asked for."""
    load_engine(inspect_model(config.path), config)
    builds: list[ModelConfig] = []

    def refused(*_: object) -> None:
        raise EngineError(f"{config.cache}: Read-only file system")

    def build(asked: ModelConfig, *_: Any) -> None:
        builds.append(asked)

    monkeypatch.setattr(EngineCache, "prepare", refused)
    monkeypatch.setattr(EngineCache, "remove", refused)
    monkeypatch.setattr("streamd.models.engine_loader.build_apart", build)
    return builds


def test_an_engine_that_fits_is_used_from_a_read_only_cache(
    config: ModelConfig, read_only: list[ModelConfig]
) -> None:
    told: list[str] = []
    assert load_engine(inspect_model(config.path), config, told.append).cached
    assert not told
    assert not read_only


def test_weights_that_change_in_a_file_of_their_own_make_another_model(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    keys, models = [], []
    for spread in ((-1.0, 1.0), (-2.0, 2.0)):
        write_model(path, (6, 9), spread=spread)
        proto = onnx.load(path)
        (tmp_path / "weights.bin").unlink(missing_ok=True)
        onnx.save(
            proto, path, save_as_external_data=True, location="weights.bin", size_threshold=100
        )
        os.utime(path, (1, 1))
        models.append(inspect_model(str(path)))
        config = ModelConfig(path=str(path))
        order = order_for(models[-1], config)
        keys.append(key_of(order, config, "onnxruntime", Platform("1", "CPU")))
    assert models[0] != models[1]
    assert list(keys[1].differences(keys[0])) == ["sha256"]


def test_a_damaged_engine_in_a_read_only_cache_is_built_elsewhere(
    config: ModelConfig, read_only: list[ModelConfig]
) -> None:
    (blob,) = Path(config.cache).glob("*/*.onnx")
    blob.write_bytes(b"")
    told: list[str] = []
    with pytest.raises(EngineError, match="was built, but not for this machine"):
        load_engine(inspect_model(config.path), config, told.append)
    assert [build.cache for build in read_only] != [config.cache]
    assert told[0] == f"{blob}: its checksum is wrong; building it again"
    assert told[1] == f"model.cache: {config.cache}: Read-only file system; engines are not kept"
