"""How long a camera is away after its fault is over, by fault.

    python -m bench.recovery

Real cameras of this program (source, decoder, back-off as in the daemon) read the RTSP server of
the tests, each from a mount of its own; nothing is inferred. All rounds of a fault run at once: it
begins for all cameras, lasts, and ends. *noticed* is from its beginning to the report that the
camera is offline, *back* from its end to the next frame. With full jitter a camera may wait all of
the step that its back-off is at: 1, 2, 4, … 60 s, so a longer outage is recovered from later.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from streamd.demo.clips import write_clip
from streamd.processes.messages import CameraState
from streamd.scenes import Scene
from streamd.testing.auth import Access
from streamd.testing.clip import Clip
from streamd.testing.rtsp_server import Mount, RtspServer
from streamd.testing.tcp_proxy import TcpProxy
from streamd.testing.watched_camera import WatchedCamera

_PASSWORD = ("user", "right")


@dataclass(frozen=True)
class Peer:
    """The other side of all cameras: a server, a network before it, a mount a camera."""

    server: RtspServer
    network: TcpProxy
    clip: Clip
    mounts: list[Mount]

    def url(self, mount: Mount) -> str:
        """The mount's address through the network."""
        url = f"rtsp://127.0.0.1:{self.network.port}{mount.path}"
        return Access(*_PASSWORD, scheme="digest").inserted_into(url)


def reset(peer: Peer, begins: bool) -> None:
    """The connections break, and may be opened again at once."""
    for mount in peer.mounts if begins else []:
        mount.kill_clients()


def power(peer: Peer, begins: bool) -> None:
    """The camera is switched off and on."""
    if begins:
        peer.server.stop()
    else:
        peer.server.start()


def path(peer: Peer, begins: bool) -> None:
    """The path is gone for a while."""
    for number, mount in enumerate(peer.mounts):
        if begins:
            peer.server.unmount(mount.path)
        else:
            peer.mounts[number] = peer.server.mount(mount.path, peer.clip)


def silence(peer: Peer, begins: bool) -> None:
    """Connected, and nothing comes."""
    for mount in peer.mounts:
        mount.stall = begins


def network(peer: Peer, begins: bool) -> None:
    """A cut that closes no connection."""
    peer.network.cut = begins


def password(peer: Peer, begins: bool) -> None:
    """The password is changed, and changed back."""
    for mount in peer.mounts:
        mount.access = Access("user", "other" if begins else "right", scheme="digest")
        if begins:
            mount.kill_clients()


@dataclass(frozen=True)
class Fault:
    """A way to fail, and whether it lasts."""

    name: str
    show: Callable[[Peer, bool], None]
    lasts: bool = True


FAULTS = (
    Fault("connection reset", reset, lasts=False),
    Fault("power off", power),
    Fault("path gone", path),
    Fault("sends nothing", silence),
    Fault("network cut, no FIN", network),
    Fault("password changed", password),
)


@dataclass(frozen=True)
class Round:
    """Seconds until one camera's fault was noticed, and until the camera was back."""

    noticed_s: float
    back_s: float
    reason: str


def main() -> None:
    """Measures every fault and prints one table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=20, help="cameras, all at once")
    options.add_argument("--outage-s", type=float, default=20.0, help="how long a fault lasts")
    options.add_argument("--timeout-s", type=float, default=5.0, help="open and stall timeout")
    asked = options.parse_args()
    print(f"{asked.rounds} rounds, outage {asked.outage_s:g} s, timeouts {asked.timeout_s:g} s\n")
    print("| fault | reason | noticed: median, max | back: median, p95, max |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="streamd-bench-") as folder:
        clip = write_clip(Path(folder) / "clip.mp4", Scene(1, 320, 180, fps=10), 4.0)
        for fault in FAULTS:
            outage_s = asked.outage_s if fault.lasts else 0.0
            show(fault, measure(fault, clip.path, asked.rounds, outage_s, asked.timeout_s))


def measure(
    fault: Fault, clip: Path, rounds: int, outage_s: float, timeout_s: float
) -> list[Round]:
    """Shows `fault` to `rounds` cameras at once."""
    opened = Clip.open(clip)
    with ExitStack() as stack:
        server = stack.enter_context(RtspServer())
        proxy = stack.enter_context(TcpProxy(server.port))
        mounts = [server.mount(f"/{n}", opened, auth=_PASSWORD) for n in range(rounds)]
        peer = Peer(server, proxy, opened, mounts)
        cameras = [
            WatchedCamera(peer.url(mount), stall_timeout_s=timeout_s, open_timeout_s=timeout_s)
            for mount in mounts
        ]
        for camera in cameras:
            stack.enter_context(camera)
        for camera in cameras:
            camera.wait_frames(5)
        began_s = time.monotonic()
        fault.show(peer, True)
        time.sleep(outage_s)
        ended_s = time.monotonic()
        fault.show(peer, False)
        return [watch(camera, began_s, ended_s) for camera in cameras]


def watch(camera: WatchedCamera, began_s: float, ended_s: float) -> Round:
    """What one camera made of a fault between two monotonic times."""
    deadline_s = time.monotonic() + 120
    while True:
        offline = camera.said(CameraState.OFFLINE, began_s)
        since_s = max(ended_s, offline[0].at_s) if offline else ended_s
        back = [frame for frame in camera.frames if frame.at_s >= since_s]
        if offline and back:
            told = offline[0]
            return Round(told.at_s - began_s, back[0].at_s - ended_s, str(told.report.reason))
        if time.monotonic() > deadline_s:
            raise SystemExit(f"a camera did not come back: {camera.reports[-3:]}")
        time.sleep(0.02)


def show(fault: Fault, rounds: list[Round]) -> None:
    """One line of the table."""
    noticed_s = [one.noticed_s for one in rounds]
    back_s = [one.back_s for one in rounds]
    reasons = ", ".join(sorted({one.reason for one in rounds}))
    print(
        f"| {fault.name} | {reasons} | {median(noticed_s):.2f} s, {max(noticed_s):.2f} s | "
        f"{median(back_s):.2f} s, {np.percentile(back_s, 95):.2f} s, {max(back_s):.2f} s |",
        flush=True,
    )


if __name__ == "__main__":
    main()
