"""The whole daemon while faults are drawn at random: what is lost, and how long recovery takes.

    make chaos                                      # 500 faults, about 20 minutes
    python -m bench.chaos --faults 40 --seed 3

Eight cameras or more by RTSP and from files, a Redis that keeps what it has answered for, and
`streamd run`. The faults (faults.py) come one after another, and none waits for the one before to
be over; the same seed draws the same ones. *Recovery* is from the end of a fault until every camera
that it touched, and that no other fault of a camera holds, has had a frame inferred; of Redis,
until its stream grows. At the end the invariants of checks.py must hold, else the exit code is 1.
"""

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import redis

from bench.chaos.checks import Usage, Verdict, grown, judge, shared_memory, usage_of
from bench.chaos.faults import KINDS, Draw, Undo, plan
from bench.chaos.world import World
from streamd.testing.daemon_process import STREAM, eventually

_TICK_S = 0.05
_USAGE_EVERY_S = 2.0
_RECOVERS_WITHIN_S = 120.0


@dataclass(slots=True)
class Active:
    """A fault that was begun and is not recovered from. Times are monotonic."""

    draw: Draw
    undo: Undo
    ends_s: float
    over_s: float | None = None
    before: dict[str, int] = field(default_factory=dict)


class Run:
    """Works a plan off."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._active: list[Active] = []
        self._redis = redis.Redis.from_url(world.redis.url, socket_timeout=0.5)
        self.recovered: dict[str, list[float]] = defaultdict(list)
        self.never: list[str] = []
        self.usages: list[Usage] = []
        self._used_s = 0.0

    def work_off(self, draws: list[Draw], until_s: float) -> int:
        """Begins every fault in its turn, until `until_s` at the latest; returns how many."""
        begun = 0
        for draw in draws:
            self._pass(draw.after_s)
            while any(active.draw.target == draw.target for active in self._active):
                self._pass(_TICK_S)
            if time.monotonic() > until_s:
                break
            undo = draw.kind.begin(self._world, draw.target)
            self._active.append(Active(draw, undo, time.monotonic() + draw.lasts_s))
            begun += 1
            if begun == len(draws) // 2:
                self.usages.clear()
        while self._active:
            self._pass(_TICK_S)
        return begun

    def close(self) -> None:
        """Lets go of Redis."""
        self._redis.close()

    def _pass(self, seconds: float) -> None:
        """Lets time pass, in which faults end and are recovered from."""
        until_s = time.monotonic() + seconds
        while True:
            for active in list(self._active):
                self._follow(active)
            if time.monotonic() - self._used_s > _USAGE_EVERY_S:
                self._used_s = time.monotonic()
                used = usage_of(self._world)
                self.usages += [used] if used else []
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return
            time.sleep(min(_TICK_S, left_s))

    def _follow(self, active: Active) -> None:
        now_s = time.monotonic()
        if active.over_s is None:
            if now_s >= active.ends_s:
                active.undo()
                active.over_s = time.monotonic()
            return
        now = self._progress(active, active.over_s)
        if now and not active.before:
            active.before = now
        elif now and self._goes_on(active, now):
            self.recovered[active.draw.kind.name].append(now_s - active.over_s)
            self._active.remove(active)
        elif now_s - active.over_s > _RECOVERS_WITHIN_S:
            self.never.append(f"{active.draw.kind.name}: {active.draw.target} did not come back")
            self._active.remove(active)

    def _progress(self, active: Active, since_s: float) -> dict[str, int]:
        """Counts that grow again, by what the fault touched; {} while nothing newer is known."""
        if active.draw.kind.scope != "redis":
            look = self._world.look()
            if look is None or look.at_s < since_s:
                return {}
            return {camera: look.inferred(camera) for camera in self._touched(active)}
        try:
            return {STREAM: int(self._redis.xlen(STREAM))}
        except redis.RedisError:
            return {}

    def _goes_on(self, active: Active, now: dict[str, int]) -> bool:
        """Counts start from 0 where the service or a camera was restarted by another fault."""
        held = set() if active.draw.kind.scope == "redis" else self._held_by_others(active)
        return all(
            now[name] not in (0, was) for name, was in active.before.items() if name not in held
        )

    def _touched(self, active: Active) -> set[str]:
        """The cameras that a fault holds up."""
        target = active.draw.target
        match active.draw.kind.scope:
            case "camera":
                return {target}
            case "recorder":
                number = int(target.rpartition("-")[2])
                return {c for c, recorder in self._world.recorder_of.items() if recorder == number}
        return set(self._world.urls)

    def _held_by_others(self, active: Active) -> set[str]:
        """Cameras with a fault of their own."""
        others = [a for a in self._active if a is not active]
        own = [a for a in others if a.draw.kind.scope in ("camera", "recorder")]
        return {camera for other in own for camera in self._touched(other)}


def main() -> None:
    """Runs, prints the tables, and exits with 1 where an invariant does not hold."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--faults", type=int, default=500, help="how many are drawn")
    options.add_argument("--seconds", type=float, default=7200, help="begin none after so many")
    options.add_argument("--seed", type=int, default=1, help="draws the same faults again")
    options.add_argument("--cameras", type=int, default=8, help="8 or more")
    options.add_argument("--gap-s", type=float, default=1.5, help="mean time between two faults")
    options.add_argument("--only", nargs="+", default=[], help="kinds whose name has one of these")
    asked = options.parse_args()
    before = shared_memory()
    with (
        tempfile.TemporaryDirectory(prefix="streamd-chaos-") as folder,
        closing(World(Path(folder), max(8, asked.cameras))) as world,
    ):
        run = Run(world)
        draws = plan(world, asked.seed, asked.faults, asked.gap_s, asked.only)
        began_s = time.monotonic()
        begun = run.work_off(draws, began_s + asked.seconds)
        calm_down(world)
        took_s = time.monotonic() - began_s
        run.close()
        world.stop()
        verdict = judge(world)
    verdict.faults += run.never
    verdict.faults += [f"left in /dev/shm: {name}" for name in sorted(shared_memory() - before)]
    growth = grown(run.usages)
    verdict.faults += [growth] if growth else []
    if growth is None:
        print("the run was too short to tell whether memory grows")
    report(run, verdict, f"{begun} faults in {took_s:.0f} s, seed {asked.seed}")
    sys.exit(bool(verdict.faults))


def calm_down(world: World) -> None:
    """Until every camera delivers and no event waits."""

    def is_calm() -> bool:
        look = world.look()
        return (
            look is not None
            and set(look.states.values()) == {"online"}
            and world.daemon.get("/readyz").status_code == 200
            and "streamd_spool_events 0.0" in world.daemon.get("/metrics").text
        )

    eventually(is_calm, _RECOVERS_WITHIN_S, "all cameras online, no event waits")


def report(run: Run, verdict: Verdict, title: str) -> None:
    """Two tables in Markdown, and what does not hold."""
    print(f"{title}\n\n| fault | times | recovery s: p50 | p95 | max |\n|---|---|---|---|---|")
    for kind in KINDS:
        times = run.recovered[kind.name]
        if times:
            middle, late = np.percentile(times, [50, 95])
            print(f"| {kind.name} | {len(times)} | {middle:.1f} | {late:.1f} | {max(times):.1f} |")
    first, last = run.usages[0], run.usages[-1]
    print(
        f"\n{verdict.events} events in Redis: lost {verdict.lost}, twice {verdict.duplicates}, "
        f"out of order {verdict.disorder}; memory {first.memory / 1e6:.0f} to "
        f"{last.memory / 1e6:.0f} MB, descriptors {first.descriptors} to {last.descriptors}"
    )
    for fault in verdict.faults:
        print(f"DOES NOT HOLD: {fault}")


if __name__ == "__main__":
    main()
