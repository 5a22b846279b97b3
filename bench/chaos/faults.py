"""The faults that are drawn: how each begins and ends, what it touches, and what shows it is over.

A fault's `target` is what no other fault touches at the same time: a camera, a recorder, a worker
role, Redis, the configuration. All else goes on failing meanwhile.
"""

import contextlib
import os
import resource
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import psutil
import redis

from bench.chaos.world import World

Undo = Callable[[], None]


def _nothing() -> None:
    """What is over as soon as it was done."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault.

    `begin` does it to a target and returns what ends it after `lasts_s` (least, most) seconds.
    `scope` says whose targets it is drawn for, and what must go on again: a camera, the cameras
    of a recorder, or all of them; for `redis` its stream. `weight` is how often it is drawn.
    """

    name: str
    scope: str
    weight: float
    lasts_s: tuple[float, float]
    begin: Callable[[World, str], Undo]


@dataclass(frozen=True, slots=True)
class Draw:
    """A fault of the plan: `after_s` the one before it."""

    kind: Kind
    target: str
    after_s: float
    lasts_s: float


def plan(world: World, seed: int, count: int, mean_gap_s: float, only: Sequence[str]) -> list[Draw]:
    """`count` faults, the same for the same seed and cameras; of kinds named like `only`, if any.

    The service itself is killed in the first half only: memory is watched over the second.
    """
    random = Random(seed)
    draws = []
    for number in range(count):
        kinds = [kind for kind in KINDS if not only or any(name in kind.name for name in only)]
        if number >= count // 2 and len(kinds) > 1:
            kinds = [kind for kind in kinds if kind.begin is not _service_killed]
        kind = random.choices(kinds, [kind.weight for kind in kinds])[0]
        target = random.choice(_targets(world, kind.scope))
        draws.append(
            Draw(kind, target, random.expovariate(1 / mean_gap_s), random.uniform(*kind.lasts_s))
        )
    return draws


def _targets(world: World, scope: str) -> Sequence[str]:
    match scope:
        case "camera":
            return list(world.mounts)
        case "recorder":
            return [f"recorder-{number}" for number in range(len(world.recorders))]
    return [scope]


def _reset(world: World, camera: str) -> Undo:
    world.mounts[camera].kill_clients()
    return _nothing


def _showing(fault: str, value: float | bool) -> Callable[[World, str], Undo]:
    """Sets that attribute of a camera's mount, and sets it back at the end."""

    def begin(world: World, camera: str) -> Undo:
        mount = world.mounts[camera]
        usual = getattr(mount, fault)
        setattr(mount, fault, value)
        return lambda: setattr(mount, fault, usual)

    return begin


def _refused(world: World, camera: str) -> Undo:
    undo = _showing("refuse", True)(world, camera)
    world.mounts[camera].kill_clients()
    return undo


def _resized(world: World, camera: str) -> Undo:
    mount = world.mounts[camera]
    small, large = world.clips
    mount.replace(large if mount.footage.clip is small else small)
    return _nothing


def _cut(world: World, recorder: str) -> Undo:
    network = world.recorders[int(recorder.rpartition("-")[2])].network
    network.cut = True

    def undo() -> None:
        network.cut = False

    return undo


def _off(world: World, recorder: str) -> Undo:
    server = world.recorders[int(recorder.rpartition("-")[2])].server
    server.stop()
    return server.start


def _worker_killed(world: World, role: str) -> Undo:
    _signal_one(world, role, signal.SIGKILL)
    return _nothing


def _worker_crashed(world: World, role: str) -> Undo:
    _signal_one(world, role, signal.SIGABRT)
    return _nothing


def _worker_stopped(world: World, role: str) -> Undo:
    """Stopped for longer than the supervisor's patience it is killed, and replaced."""
    worker = _signal_one(world, role, signal.SIGSTOP)

    def undo() -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            if worker is not None:
                worker.send_signal(signal.SIGCONT)

    return undo


def _signal_one(world: World, role: str, number: signal.Signals) -> psutil.Process | None:
    """The first of the role that lives gets it; while none does, a fault before goes on."""
    for worker in world.workers(role)[:1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.send_signal(number)
            return worker
    return None


def _service_killed(world: World, target: str) -> Undo:  # noqa: ARG001  # there is only one
    world.kill()
    return world.start


def _service_stopped(world: World, target: str) -> Undo:  # noqa: ARG001  # there is only one
    pid = world.daemon.process.pid
    os.kill(pid, signal.SIGSTOP)
    return lambda: os.kill(pid, signal.SIGCONT)


def _redis_killed(world: World, target: str) -> Undo:  # noqa: ARG001  # there is only one
    world.redis.kill()
    return world.redis.start


def _redis_paused(world: World, target: str) -> Undo:  # noqa: ARG001  # there is only one
    world.redis.pause()
    return world.redis.resume


def _redis_full(world: World, target: str) -> Undo:  # noqa: ARG001  # there is only one
    client = redis.Redis.from_url(world.redis.url)
    client.config_set("maxmemory", "1mb")

    def undo() -> None:
        client.config_set("maxmemory", "0")
        client.close()

    return undo


def _disk_full(world: World, target: str) -> Undo:
    """Redis is away, and no file of an inference worker may grow: EFBIG, as of a full disk."""
    limited = world.workers("inference")
    for worker in limited:
        _limit_files(worker, 1)
    start_redis = _redis_killed(world, target)

    def undo() -> None:
        for worker in limited:
            _limit_files(worker, resource.RLIM_INFINITY)
        start_redis()

    return undo


def _limit_files(worker: psutil.Process, size: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        worker.rlimit(psutil.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _good_reload(world: World, target: str) -> Undo:  # noqa: ARG001  # there is only one
    """One camera more or less often; a camera of its own each time."""
    names = list(world.fps)
    name = names[len(world.daemon.logged("reloading")) % len(names)]
    world.fps[name] = 9 - world.fps[name]
    world.reload(world.settings())
    return _nothing


def _bad_reload(world: World, target: str) -> Undo:  # noqa: ARG001  # there is only one
    world.reload("cameras: [{id: a, url: nowhere.mp4, fps: often}]\n")
    return lambda: world.reload(world.settings())


KINDS = (
    Kind("camera: connection reset", "camera", 3, (0, 0), _reset),
    Kind("camera: sends nothing", "camera", 3, (0.5, 6), _showing("stall", True)),
    Kind("camera: a fifth of the packets corrupt", "camera", 2, (1, 6), _showing("corrupt", 0.2)),
    Kind("camera: a twentieth of the packets lost", "camera", 2, (1, 6), _showing("drop", 0.05)),
    Kind("camera: refuses", "camera", 2, (0.5, 4), _refused),
    Kind("camera: other frame size", "camera", 2, (0, 0), _resized),
    Kind("recorder: network cut, no FIN", "recorder", 1, (0.5, 6), _cut),
    Kind("recorder: power off", "recorder", 1, (0.5, 4), _off),
    Kind("ingest worker killed", "ingest", 1.5, (0, 0), _worker_killed),
    Kind("ingest worker aborts", "ingest", 0.5, (0, 0), _worker_crashed),
    Kind("ingest worker stopped", "ingest", 1, (1, 20), _worker_stopped),
    Kind("inference worker killed", "inference", 1.5, (0, 0), _worker_killed),
    Kind("inference worker aborts", "inference", 0.5, (0, 0), _worker_crashed),
    Kind("inference worker stopped", "inference", 1, (1, 20), _worker_stopped),
    Kind("service killed", "service", 0.7, (0, 1), _service_killed),
    Kind("service stopped", "service", 1, (0.5, 4), _service_stopped),
    Kind("Redis killed", "redis", 1.5, (0.2, 5), _redis_killed),
    Kind("Redis paused", "redis", 1.5, (0.5, 8), _redis_paused),
    Kind("Redis full", "redis", 1, (0.5, 5), _redis_full),
    Kind("Redis killed, spool's disk full", "redis", 1, (0.5, 5), _disk_full),
    Kind("reload: one camera changed", "configuration", 1.5, (0, 0), _good_reload),
    Kind("reload: bad file", "configuration", 1, (0.5, 2), _bad_reload),
)
