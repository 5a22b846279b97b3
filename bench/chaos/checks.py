"""What must hold when all is over: the events, the books, and nothing left behind."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.chaos.world import Life, World
from streamd.events import Event
from streamd.testing.daemon_process import balanced

_ENDS_WITHIN_S = 10.0
_MORE_MEMORY = 1.15  # what the last quarter of the second half may have over its first
_MORE_DESCRIPTORS = 8
_FEWEST_USAGES = 60  # at one every two seconds: workers come and go meanwhile


@dataclass(slots=True)
class Verdict:
    """`faults` are invariants that do not hold, one line each."""

    events: int = 0
    lost: int = 0
    duplicates: int = 0
    disorder: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Usage:
    """A daemon's memory in bytes (proportional, all its processes) and its descriptors."""

    memory: int
    descriptors: int


def usage_of(world: World) -> Usage | None:
    """As it is now; None while a process of it comes or goes."""
    try:
        processes = world.processes()
        memory = sum(p.memory_full_info().pss for p in processes)
        return Usage(memory, processes[0].num_fds()) if processes else None
    except psutil.Error:
        return None


def judge(world: World) -> Verdict:
    """Looks at Redis and the books of every life; the last daemon has been stopped."""
    verdict = Verdict()
    events = world.daemon.events()
    verdict.events = len(events)
    ids = Counter(event.id for event in events)
    twice = [id_ for id_, count in ids.items() if count > 1]
    verdict.duplicates = sum(ids[id_] - 1 for id_ in twice)
    backwards = [event.id for event in _backwards(events)]
    verdict.disorder = len(backwards)
    for life in world.lives:
        verdict.lost += _lost_in(life, events)
        verdict.faults += _left_by(life)
    verdict.faults += [f"twice: {' '.join(twice[:5])}"] if twice else []
    verdict.faults += [f"out of order: {' '.join(backwards[:5])}"] if backwards else []
    stopped = world.daemon.logged("stopped")
    if world.life.code != 0 or not stopped:
        verdict.faults.append(f"the service ended with {world.life.code}")
    else:
        verdict.faults += _unbalanced(world.life, events, stopped[0]["frames"])
    for name, count in (
        ("lost", verdict.lost),
        ("twice", verdict.duplicates),
        ("out of order", verdict.disorder),
    ):
        if count:
            verdict.faults.append(f"{count} events {name}")
    return verdict


def grown(usages: list[Usage]) -> str | None:
    """What grew over `usages`, in the order of time, "" for nothing; None: too few to tell."""
    if len(usages) < _FEWEST_USAGES:
        return None
    quarter = len(usages) // 4

    def middle(values: Iterable[int]) -> int:
        ordered = sorted(values)
        return ordered[len(ordered) // 2]

    first, last = usages[:quarter], usages[-quarter:]
    memory = middle(u.memory for u in last) / middle(u.memory for u in first)
    descriptors = middle(u.descriptors for u in last) - middle(u.descriptors for u in first)
    if memory > _MORE_MEMORY:
        return f"memory grew {memory:.2f} times"
    if descriptors > _MORE_DESCRIPTORS:
        return f"the supervisor has {descriptors} descriptors more"
    return ""


def _backwards(events: list[Event]) -> Iterator[Event]:
    """Events that are not after all earlier ones of their camera."""
    newest: dict[str, tuple[int, int]] = defaultdict(lambda: (0, -1))
    for event in events:
        place = (_session(event), event.seq)
        if place < newest[event.camera]:
            yield event
        newest[event.camera] = max(place, newest[event.camera])


def _session(event: Event) -> int:
    return int(event.id.split(":")[1])


def _lost_in(life: Life, events: list[Event]) -> int:
    """Frames that were booked as inferred when last looked at, and are not in Redis."""
    if life.last is None:
        return 0
    delivered = Counter(event.camera for event in _events_of(life, events))
    return sum(max(0, life.last.inferred(c) - delivered[c]) for c in life.last.frames)


def _unbalanced(life: Life, events: list[Event], frames: dict[str, int]) -> Iterator[str]:
    """Compares the ledger of a daemon that was stopped, over all cameras, with its events.

    A worker that was killed after it delivered and before it booked leaves events of frames that
    are booked as lost in it: so there may be more events than booked, but no more than that.
    """
    if not balanced(frames) or frames["in_flight"]:
        yield f"the ledger does not add up: {frames}"
    more = len(_events_of(life, events)) - frames["inferred"]
    if not 0 <= more <= frames["lost_inference"]:
        yield f"{more} events more than frames were inferred, {frames['lost_inference']} lost"


def _events_of(life: Life, events: list[Event]) -> list[Event]:
    return [e for e in events if life.began <= _session(e) / 1000 <= life.ended]


def _left_by(life: Life) -> list[str]:
    """Processes that outlived their daemon."""
    _, alive = psutil.wait_procs(list(life.processes), timeout=_ENDS_WITHIN_S)
    return [f"left behind: {process}" for process in alive]


def shared_memory() -> set[str]:
    """Names in /dev/shm that are streamd's."""
    return {path.name for path in Path("/dev/shm").iterdir() if "streamd" in path.name}
