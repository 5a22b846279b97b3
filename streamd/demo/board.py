"""What the demo shows: a live table in a terminal, a line now and then elsewhere."""

import threading
import time
from collections import deque
from dataclasses import dataclass, field

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from streamd.events import Event
from streamd.processes.messages import CameraState
from streamd.supervision.fleet import CameraEntry, Fleet

_COLOURS = {
    CameraState.ONLINE: "green",
    CameraState.CONNECTING: "yellow",
    CameraState.DONE: "cyan",
}


@dataclass(slots=True)
class Board:
    """The last events, by camera and of all."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    latest: dict[str, Event] = field(default_factory=dict)
    recent: deque[Event] = field(default_factory=lambda: deque(maxlen=6))
    events: int = 0
    first_s: float | None = None

    def add(self, event: Event) -> None:
        """Takes an event; from the subscriber's thread."""
        with self.lock:
            self.latest[event.camera] = event
            if event.n:
                self.recent.append(event)
            self.events += 1
            if self.first_s is None:
                self.first_s = time.monotonic()

    def draw(self, fleet: Fleet, http: str) -> Group:
        """The whole screen."""
        table = Table(title="streamd demo", title_justify="left", expand=True)
        for name, justify in (
            ("camera", "left"),
            ("state", "left"),
            ("source", "left"),
            ("in fps", "right"),
            ("inferred fps", "right"),
            ("latency", "right"),
            ("last objects", "left"),
        ):
            table.add_column(
                name,
                justify="right" if justify == "right" else "left",
                no_wrap=True,
                ratio=1 if name == "last objects" else None,
            )
        with self.lock:
            for entry in fleet.cameras.values():
                table.add_row(*self._row(entry))
            lines = [Text(_event_line(event), style="dim") for event in self.recent]
        wrong = [Text(line, style="red") for line in troubles(fleet)]
        return Group(table, *wrong, Text(totals(fleet)), Text(http, style="dim"), *lines)

    def _row(self, entry: CameraEntry) -> tuple[str, ...]:
        event = self.latest.get(entry.config.id)
        state = entry.report.state
        reason = f" ({entry.report.reason})" if entry.report.reason else ""
        return (
            entry.config.id,
            f"[{_COLOURS.get(state, 'red')}]{state}{reason}",
            _source(entry),
            f"{entry.rates.captured:.1f}",
            f"{entry.rates.inferred:.1f}",
            f"{event.data.latency_ms.total:.0f} ms" if event else "-",
            escape(objects_of(event)) if event else "-",
        )


def totals(fleet: Fleet) -> str:
    """Frames a second over all cameras, and how full the batches are."""
    if not fleet.engines:
        return "preparing the engine: built the first time, then kept ..."
    ledger = fleet.ledger
    sizes = ledger.histogram(0, "batch_size")
    batches, frames = sum(sizes.counts), sizes.sum
    places = ledger.get_worker(0, "batch_slots")
    fps = sum(entry.rates.inferred for entry in fleet.cameras.values())
    mean = frames / batches if batches else 0.0
    fill = 100 * frames / places if places else 0.0
    dropped = sum(ledger.dropped(entry.index) for entry in fleet.cameras.values())
    return (
        f"{fps:.1f} frames/s inferred, mean batch {mean:.1f}, batch fill {fill:.0f} %, "
        f"{dropped} frames dropped"
    )


def troubles(fleet: Fleet) -> list[str]:
    """Of each camera that does not deliver, why."""
    reports = {id_: entry.report for id_, entry in fleet.cameras.items()}
    return [f"{id_}: {each.reason}: {each.detail}" for id_, each in reports.items() if each.reason]


def objects_of(event: Event) -> str:
    """The labels of an event, with their scores."""
    return ", ".join(f"{o.label} {o.confidence:.2f}" for o in event.data.objects) or "-"


def _event_line(event: Event) -> str:
    clock = time.strftime("%H:%M:%S", time.localtime(event.ts / 1000))
    return f"{clock} {event.id}  {objects_of(event)}"


def _source(entry: CameraEntry) -> str:
    online = entry.online
    scheme = entry.config.url.partition("://")[0] if "://" in entry.config.url else "file"
    return f"{scheme} {online.codec} {online.width}x{online.height}" if online else scheme
