"""PyAV against an RTSP server that is not ours, so that our own cannot hide a misreading."""

from collections.abc import Iterator

import av
import pytest

from .peers import gstreamer_server, write_pattern

pytestmark = pytest.mark.slow
FRAMES = 30


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    clip = tmp_path_factory.mktemp("clips") / "a clip.mp4"
    write_pattern(clip, "libx264", FRAMES + 10)
    with gstreamer_server(clip) as running:
        yield running


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize(("path", "size"), [("/0", (160, 120)), ("/pattern", (320, 240))])
def test_pictures_arrive(address: str, path: str, size: tuple[int, int], transport: str) -> None:
    options = {"rtsp_transport": transport, "probesize": "20000", "analyzeduration": "100000"}
    with av.open(address + path, options=options, timeout=5) as container:
        frames = zip(container.decode(video=0), range(FRAMES), strict=False)
        assert [(frame.width, frame.height) for frame, _ in frames] == [size] * FRAMES
