"""What cuda.py does on a real GPU; it needs pycuda and a driver, not TensorRT."""

import threading
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import pytest
from av.codec.codec import Codec
from av.codec.hwaccel import HWAccel

from streamd.errors import EngineError
from streamd.nvidia import driver_missing
from streamd.slots import InputShape, SlotPool

if TYPE_CHECKING:
    from streamd.engines.cuda import Device

pytestmark = pytest.mark.gpu

NOISE = np.random.default_rng(0).integers(0, 255, 1_000_000, np.uint8)


@pytest.fixture
def device() -> Iterator["Device"]:
    """A GPU that this thread may use."""
    if not find_spec("pycuda"):
        pytest.skip("pycuda is not installed")
    if missing := driver_missing():
        pytest.skip(missing)
    from streamd.engines.cuda import Device  # noqa: PLC0415  # loads the driver

    made = Device()
    with made.current():
        yield made


def test_bytes_go_to_the_gpu_and_come_back(device: "Device") -> None:
    memory, stream = device.memory(NOISE.nbytes), device.stream()
    back = device.pinned(NOISE.shape, np.uint8)
    stream.copy_in(memory.address, NOISE)
    stream.copy_out(back.array, memory.address)
    stream.synchronize()
    assert (back.array == NOISE).all()
    for held in (back, memory, stream):
        held.close()


def test_recorded_work_is_done_at_each_launch_and_not_before(device: "Device") -> None:
    memory, stream = device.memory(NOISE.nbytes), device.stream()
    back = device.pinned(NOISE.shape, np.uint8)
    back.array[...] = 0
    graph = stream.record(lambda: stream.copy_out(back.array, memory.address))
    assert graph is not None
    for sent in (NOISE, NOISE[::-1].copy()):
        stream.copy_in(memory.address, sent)
        stream.synchronize()
        assert not (back.array == sent).all()
        graph.launch(stream)
        stream.synchronize()
        assert (back.array == sent).all()
    for held in (graph, back, memory, stream):
        held.close()


def test_work_that_cannot_be_recorded_leaves_the_stream_usable(device: "Device") -> None:
    stream = device.stream()
    assert stream.record(stream.synchronize) is None
    memory = device.memory(NOISE.nbytes)
    stream.copy_in(memory.address, NOISE)
    stream.synchronize()


def test_slots_are_pinned_where_they_are_by_one_engine_after_another(device: "Device") -> None:
    pool = SlotPool(4, InputShape(64, 64))
    first, second = device.register(pool.images), device.register(pool.images)
    memory, stream = device.memory(pool.images.nbytes), device.stream()
    stream.copy_in(memory.address, pool.images)
    stream.synchronize()
    first.close()
    with pytest.raises(EngineError, match="NOT_REGISTERED"):
        second.close()


def test_what_one_thread_took_another_gives_back(device: "Device") -> None:
    taken = device.memory(64_000_000), device.stream(), device.pinned((1000,), np.float32)
    failed: list[EngineError] = []

    def give_back() -> None:
        try:
            with device.current():
                for held in taken:
                    held.close()
        except EngineError as error:
            failed.append(error)

    thread = threading.Thread(target=give_back)
    thread.start()
    thread.join()
    assert not failed


def test_what_does_not_fit_is_an_error(device: "Device") -> None:
    with pytest.raises(EngineError, match="out of memory"), device.current():
        device.memory(2**46)


@pytest.mark.usefixtures("device")
def test_ffmpeg_decodes_in_the_same_context() -> None:
    HWAccel("cuda", options={"primary_ctx": "1"}).create(Codec("h264", "r"))
