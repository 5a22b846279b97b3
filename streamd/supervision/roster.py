"""Which cameras run: starts and stops single ones while the others go on.

A camera that is to go passes through three steps, each waited for without blocking: its reader has
stopped; all its frames have their outcome; inference has forgotten it. Then its place is free.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from streamd.config import CameraConfig
from streamd.errors import SetupError
from streamd.logs import get_logger
from streamd.processes.messages import CameraGone, CameraReport, CameraState
from streamd.supervision.crew import Crew
from streamd.supervision.fleet import Fleet
from streamd.supervision.layout import CameraPlace, Layout

# How long a changed camera's new reader waits for the old one to let go of the connection.
_HANDOVER_S = 3.0
_ENDED = (CameraState.STOPPED, CameraState.DONE, CameraState.FAILED)


@dataclass(frozen=True, slots=True)
class Changes:
    """Ids of cameras, by what became of them."""

    started: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()


@dataclass(slots=True)
class _Leaving:
    """How far a camera that goes has come."""

    place: CameraPlace
    read: bool
    known: bool = True
    told: bool = False
    announced: bool = False


@dataclass(frozen=True, slots=True)
class _Arriving:
    """A camera whose reader starts once no frame is left of places that it had before.

    From `at_s` on, a reader of such a place that is stuck is waited for no more.
    """

    place: CameraPlace
    at_s: float


class Roster:
    """The cameras of a running service. All is done on the supervisor's own thread.

    `stopped` hears of each camera whose reader has ended because it was told to.
    """

    def __init__(
        self,
        layout: Layout,
        fleet: Fleet,
        crew: Crew,
        stopped: Callable[[str], None],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._layout = layout
        self._fleet = fleet
        self._crew = crew
        self._stopped = stopped
        self._clock_s = clock_s
        self._leaving: dict[int, _Leaving] = {}
        self._arriving: list[_Arriving] = []
        self._postponed: dict[str, CameraConfig] = {}
        self._log = get_logger()

    def apply(self, cameras: Iterable[CameraConfig]) -> Changes:
        """Makes `cameras` the ones that run: exactly those that differ are touched."""
        self._postponed.clear()
        wanted = {camera.id: camera for camera in cameras}
        running = {id_: entry.config for id_, entry in self._fleet.cameras.items()}
        stopped = [id_ for id_ in running if id_ not in wanted]
        for id_ in stopped:
            self.stop(id_)
        started: list[str] = []
        restarted: list[str] = []
        for id_, camera in wanted.items():
            if running.get(id_) != camera and self._try_start(camera):
                (restarted if id_ in running else started).append(id_)
        return Changes(tuple(started), tuple(stopped), tuple(restarted))

    def start(self, camera: CameraConfig) -> None:
        """Reads `camera` from now on, instead of the one with its id. Raises SetupError."""
        place = self._layout.admit(camera)
        if camera.id in self._fleet.cameras:
            self._stop(camera.id)
        self._postponed.pop(camera.id, None)
        self._fleet.add(camera, place.index)
        if self._before(place):
            place.held = True
            self._arriving.append(_Arriving(place, self._clock_s() + _HANDOVER_S))
        else:
            self._crew.begin(place)

    def stop(self, camera: str) -> None:
        """Reads a camera no more; its last frames still become events. KeyError: there is none."""
        if self._postponed.pop(camera, None) is None or camera in self._fleet.cameras:
            self._stop(camera)

    def _stop(self, camera: str) -> None:
        entry = self._fleet.cameras[camera]
        place = self._layout.places[entry.index]
        self._fleet.remove(camera)
        self._arriving = [a for a in self._arriving if a.place is not place]
        place.leaving = True
        begun = place.begun and not entry.settled
        leaving = self._leaving[place.index] = _Leaving(place, read=begun)
        if begun and not self._crew.stop_reading(place):
            self._reader_ended(leaving)

    def heard(self, message: CameraReport | CameraGone) -> bool:
        """Takes in what is said of a place that is leaving; False if it is of another."""
        leaving = self._leaving.get(message.index)
        if leaving is None:
            return False
        if isinstance(message, CameraGone):
            leaving.known = False
        elif message.state in _ENDED:
            self._reader_ended(leaving)
        return True

    def worker_died(self, places: Iterable[CameraPlace], role: str) -> None:
        """A worker is gone, and with it what it knew of `places`."""
        for place in places:
            leaving = self._leaving.get(place.index)
            if leaving is not None and role == "ingest":
                self._reader_ended(leaving)
            elif leaving is not None:
                leaving.told = False

    def tick(self) -> None:
        """Does the next step for each camera that comes or goes."""
        for leaving in list(self._leaving.values()):
            if not leaving.read:
                self._see_off(leaving)
        postponed, self._postponed = self._postponed, {}
        for camera in postponed.values():
            self._try_start(camera)
        now_s = self._clock_s()
        for arriving in list(self._arriving):
            if self._may_begin(arriving, now_s):
                self._arriving.remove(arriving)
                arriving.place.held = False
                for before in self._before(arriving.place):
                    self._announce(before)  # also of a reader that is stuck: it is not waited for
                self._crew.begin(arriving.place)

    def close(self) -> None:
        """The workers have ended: books what is left of cameras that were leaving."""
        for leaving in self._leaving.values():
            self._fleet.gone(leaving.place.index)

    def _reader_ended(self, leaving: _Leaving) -> None:
        if leaving.read:
            self._announce(leaving)
            leaving.read = False

    def _announce(self, leaving: _Leaving) -> None:
        if leaving.read and not leaving.announced:
            leaving.announced = True
            self._stopped(leaving.place.config.id)

    def _may_begin(self, arriving: _Arriving, now_s: float) -> bool:
        late = now_s >= arriving.at_s
        return all(
            late and before.read and not self._layout.ledger.camera(before.place.index).in_flight
            for before in self._before(arriving.place)
        )

    def _before(self, place: CameraPlace) -> list[_Leaving]:
        """Places that the same camera has not left yet."""
        return [x for x in self._leaving.values() if x.place.config.id == place.config.id]

    def _see_off(self, leaving: _Leaving) -> None:
        place = leaving.place
        self._crew.close_reading(place)
        if self._layout.ledger.camera(place.index).in_flight:
            return
        if not leaving.told:
            leaving.told = True
            leaving.known = self._crew.forget(place)
        if not leaving.known:
            del self._leaving[place.index]
            self._fleet.gone(place.index)
            self._layout.free(place)

    def _try_start(self, camera: CameraConfig) -> bool:
        """False where there is no room; where some is about to be free, it is waited for."""
        try:
            self.start(camera)
        except SetupError as error:
            if self._leaving:
                self._postponed[camera.id] = camera
                return True
            self._log.error("camera_refused", camera=camera.id, reason=str(error))
            return False
        return True
