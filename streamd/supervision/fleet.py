"""What the supervisor knows of its cameras, engines and Redis; read by HTTP and metrics."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from streamd.config import CameraConfig
from streamd.ledger import NO_FRAMES, CameraLedger, Ledger
from streamd.processes.messages import CameraReport, CameraState, EngineReport

# A model of a thousand classes must not make a thousand time series.
_MOST_LABELS = 100
OTHER_LABELS = "(other)"
_SETTLED = (CameraState.DONE, CameraState.FAILED)


@dataclass(frozen=True, slots=True)
class Rates:
    """Frames a second over the last few seconds."""

    captured: float = 0.0
    inferred: float = 0.0


@dataclass(slots=True)
class CameraEntry:
    """One camera: its configuration, its last report, and what was counted of it."""

    config: CameraConfig
    index: int
    report: CameraReport
    since_s: float
    online: CameraReport | None = None
    rates: Rates = field(default_factory=Rates)
    reconnects: Counter[str] = field(default_factory=Counter)

    @property
    def settled(self) -> bool:
        """True once a file needs no more reading."""
        return self.report.state in _SETTLED


class Fleet:
    """The state of everything, as last reported."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        # Never changed in place: the threads of HTTP go through it.
        self.cameras: dict[str, CameraEntry] = {}
        self._leaving: set[int] = set()
        self._left = Counter(NO_FRAMES.as_dict())
        self.engines: dict[int, EngineReport] = {}
        self.redis: dict[str, str | None] = {}
        self.restarts: Counter[tuple[str, str]] = Counter()
        self.objects: Counter[str] = Counter()
        self._sampled_ns = time.monotonic_ns()
        self._samples: dict[str, tuple[int, int]] = {}

    def add(self, config: CameraConfig, index: int) -> None:
        """A camera that is to be read from now on, in place of one with the same id."""
        report = CameraReport(config.id, CameraState.CONNECTING, index=index)
        self._samples[config.id] = 0, 0
        self.cameras = {**self.cameras, config.id: CameraEntry(config, index, report, time.time())}

    def remove(self, camera: str) -> None:
        """A camera that is not to be read any more; its frames count on until it is `gone`."""
        self._leaving.add(self.cameras[camera].index)
        self.cameras = {id_: entry for id_, entry in self.cameras.items() if id_ != camera}
        self._samples.pop(camera, None)

    def saw(self, counts: Mapping[str, int]) -> None:
        """Objects by label. Those that are first seen once there are many are counted as others."""
        for label, count in counts.items():
            known = label in self.objects or len(self.objects) < _MOST_LABELS
            self.objects[label if known else OTHER_LABELS] += count

    def gone(self, index: int) -> None:
        """The last frame of a camera that was removed has its outcome."""
        self._leaving.discard(index)
        self._left.update(self.ledger.camera(index).as_dict())

    def settled(self, camera: str, index: int) -> bool:
        """Whether the camera of this place needs no more reading."""
        entry = self.cameras.get(camera)
        return entry is None or entry.index != index or entry.settled

    def note(self, report: CameraReport) -> bool:
        """Takes a camera's report; True if its state or reason is news to a subscriber."""
        entry = self.cameras[report.camera]
        before, entry.report = entry.report, report
        if report.state is CameraState.ONLINE:
            entry.online = report
        if report.state is CameraState.OFFLINE and report.reason is not None:
            entry.reconnects[report.reason] += 1
        if report.state is CameraState.CONNECTING:
            # A try is no news: the camera stays offline, for the same reason, until it delivers.
            entry.report = replace(before, retry_in_s=None)
            return False
        news = (report.state, report.reason) != (before.state, before.reason)
        if news:
            entry.since_s = time.time()
        return news

    def sample(self) -> None:
        """Updates the rates; to be called about once a second."""
        now_ns = time.monotonic_ns()
        seconds = (now_ns - self._sampled_ns) / 1e9
        if seconds <= 0:
            return
        self._sampled_ns = now_ns
        for id_, entry in self.cameras.items():
            captured = self.ledger.get(entry.index, "captured")
            inferred = self.ledger.inferred(entry.index)
            old_captured, old_inferred = self._samples[id_]
            self._samples[id_] = captured, inferred
            share = min(1.0, seconds / 3)
            rates = entry.rates
            entry.rates = Rates(
                rates.captured + share * ((captured - old_captured) / seconds - rates.captured),
                rates.inferred + share * ((inferred - old_inferred) / seconds - rates.inferred),
            )

    def counts(self, entry: CameraEntry) -> CameraLedger:
        """A camera's frames by outcome."""
        return self.ledger.camera(entry.index)

    def totals(self) -> dict[str, int]:
        """All cameras' frames by outcome, also of those that were removed."""
        total = Counter(self._left)
        for index in (*self._leaving, *(entry.index for entry in self.cameras.values())):
            total.update(self.ledger.camera(index).as_dict())
        return dict(total)

    def last_frame_age_s(self, entry: CameraEntry) -> float | None:
        """Seconds since the camera's newest frame; None before its first."""
        last_ns = self.ledger.get(entry.index, "last_frame_ns")
        return (time.monotonic_ns() - last_ns) / 1e9 if last_ns else None

    def last_inferred_ns(self) -> int:
        """When the newest result of any camera was there, in monotonic time; 0 before the first."""
        indices = [entry.index for entry in self.cameras.values()]
        return max((self.ledger.get(i, "last_inferred_ns") for i in indices), default=0)

    def not_ready(self, inference_workers: int) -> list[str]:
        """What keeps the service from being ready, one line each."""
        missing = []
        cold = inference_workers - len(self.engines)
        if cold:
            missing.append(f"engine: {cold} of {inference_workers} inference workers not warm")
        errors = sorted({error for error in list(self.redis.values()) if error})
        if errors:
            missing.append(f"redis: not reachable: {errors[0]}")
        elif len(self.redis) < inference_workers:
            missing.append("redis: not reached yet")
        return missing
