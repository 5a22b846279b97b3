"""GStreamer's RTSP server with H.264 files, or with its own test picture, on the loopback.

Run by the system's Python, which has Debian's python3-gi and gir1.2-gst-rtsp-server-1.0:

    /usr/bin/python3 gst_server.py [FILE.mp4 ...]

Prints its port. The files are at /0, /1, ..., from their start for each client; /pattern is a
live test picture of 320 x 240 at 30 pictures a second. Ends when its standard input is closed.
"""

import json
import sys
from pathlib import Path
from typing import Any

MISSING = 77  # exit status: cannot run here, standard error says what is missing
_PAY = "rtph264pay name=pay0 pt=96 config-interval=-1"
_PATTERN = (
    "videotestsrc is-live=true ! video/x-raw,width=320,height=240,framerate=30/1"
    " ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=30"
)
_ELEMENTS = ("videotestsrc", "x264enc", "qtdemux", "h264parse", "rtph264pay", "rtpbin", "udpsink")

try:
    import gi  # type: ignore[import-not-found, unused-ignore]  # the system Python's alone

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import (  # type: ignore[import-not-found, unused-ignore]  # as above
        GLib,
        Gst,
        GstRtspServer,
    )
except (ImportError, ValueError) as error:
    print(f"GStreamer's RTSP server is not installed: {error}", file=sys.stderr)
    sys.exit(MISSING)


def main(files: list[Path]) -> None:
    """Serve until the standard input ends."""
    Gst.init(None)
    missing = [name for name in _ELEMENTS if Gst.ElementFactory.find(name) is None]
    if missing:
        print(f"GStreamer lacks {', '.join(missing)}", file=sys.stderr)
        sys.exit(MISSING)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service("0")
    mounts = server.get_mount_points()
    mounts.add_factory("/pattern", _factory(_PATTERN))
    for number, file in enumerate(files):
        location = json.dumps(str(file))  # quoted as a pipeline description wants it
        source = f"filesrc location={location} ! qtdemux ! h264parse"
        mounts.add_factory(f"/{number}", _factory(source))
    server.attach(None)
    print(server.get_bound_port(), flush=True)
    loop = GLib.MainLoop()
    GLib.io_add_watch(sys.stdin, GLib.IO_IN | GLib.IO_HUP, lambda *_: loop.quit())
    loop.run()


def _factory(source: str) -> Any:
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(f"( {source} ! {_PAY} )")
    loopback = GstRtspServer.RTSPAddressPool()  # without one, UDP ports are bound on all interfaces
    loopback.add_range("127.0.0.1", "127.0.0.1", 20_000, 30_000, 0)
    factory.set_address_pool(loopback)
    return factory


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
