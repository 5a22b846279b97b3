import sys

import pytest

from streamd.engines import choose_backend, installed_backends, load_backend
from streamd.errors import EngineError

TENSORRT = ("tensorrt", "pycuda")
RTX = ("tensorrt_rtx", "pycuda")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A machine with the packages and the lack that the test names."""
    packages, lack = request.param
    monkeypatch.setattr(
        "streamd.engines.backends.find_spec", lambda name: name if name in packages else None
    )
    monkeypatch.setattr("streamd.engines.backends.driver_missing", lambda: lack)


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (((*TENSORRT, "openvino"), None), ("tensorrt", "auto: an NVIDIA GPU is here")),
        (((*RTX, "openvino"), None), ("tensorrt", "auto: an NVIDIA GPU is here")),
        (((*TENSORRT, "openvino"), "no driver"), ("openvino", "auto: no driver")),
        ((("openvino",), None), ("openvino", "auto: tensorrt is not installed")),
        ((("tensorrt", "openvino"), None), ("openvino", "auto: tensorrt is not installed")),
        (
            (("onnxruntime",), "no driver"),
            ("onnxruntime", "auto: no driver, openvino is not installed"),
        ),
    ],
    indirect=["machine"],
)
@pytest.mark.usefixtures("machine")
def test_auto_takes_what_the_machine_and_its_packages_allow(expected: tuple[str, str]) -> None:
    assert choose_backend("auto") == expected


@pytest.mark.parametrize("machine", [((), None)], indirect=True)
@pytest.mark.usefixtures("machine")
def test_a_machine_without_any_backend_is_told() -> None:
    assert installed_backends() == []
    with pytest.raises(EngineError, match="none of tensorrt, openvino, onnxruntime is installed"):
        choose_backend("auto")


@pytest.mark.parametrize("machine", [((*TENSORRT, "openvino"), None)], indirect=True)
@pytest.mark.usefixtures("machine")
def test_a_tensorrt_engine_runs_on_tensorrt_only() -> None:
    expected = ("tensorrt", "the model is a TensorRT engine")
    assert choose_backend("openvino", foreign_engine=True) == expected


@pytest.mark.parametrize(
    ("machine", "said"),
    [
        (((*TENSORRT, "openvino"), "no driver"), "tensorrt cannot run here: no driver"),
        ((("openvino",), None), "tensorrt is not installed; pip install '.\\[tensorrt\\]'"),
    ],
    indirect=["machine"],
)
@pytest.mark.usefixtures("machine")
def test_tensorrt_is_not_touched_where_it_cannot_run(said: str) -> None:
    with pytest.raises(EngineError, match=f"^model.backend: {said}$"):
        choose_backend("tensorrt")
    with pytest.raises(EngineError, match=f"^model.backend: {said}$"):
        load_backend("tensorrt")
    with pytest.raises(EngineError, match=f"^model.path: {said}$"):
        choose_backend("auto", foreign_engine=True)


@pytest.mark.parametrize("machine", [((*TENSORRT, "openvino"), None)], indirect=True)
@pytest.mark.usefixtures("machine")
def test_a_tensorrt_that_lacks_a_library_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Broken:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "streamd.engines.tensorrt_engine":
                raise ImportError("libcurand.so.10: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "streamd.engines.tensorrt_engine", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(EngineError) as caught:
        load_backend("tensorrt")
    what = "tensorrt cannot be loaded: libcurand.so.10: cannot open shared object file"
    assert str(caught.value) == f"model.backend: {what}"
