"""Cameras come and go: what the workers are told, and in which order."""

from pathlib import Path
from typing import Any

import pytest

from streamd.config import CameraConfig, Config
from streamd.engines.model_file import inspect_model
from streamd.processes.messages import (
    CameraGone,
    CameraReport,
    CameraState,
    LetCameraGo,
    ReadCameraToo,
    TakeCameraToo,
)
from streamd.supervision.crew import Crew
from streamd.supervision.fleet import Fleet
from streamd.supervision.layout import Layout
from streamd.supervision.roster import Roster
from streamd.supervision.watchdog import Watchdog

SHIPPED = Path(__file__).parents[2] / "engines" / "shapes.onnx"


class Worker:
    """A process that lives and writes down what it is told."""

    def __init__(self, role: str, number: int) -> None:
        self.role, self.number, self.name, self.alive = role, number, f"{role}-{number}", True
        self.told: list[Any] = []

    def send(self, message: Any) -> None:
        self.told.append(message)


class Service:
    """A roster with one camera, `gate`, whose workers are told of it already."""

    def __init__(self) -> None:
        self.now_s = 0.0
        config = Config.model_validate(
            {"cameras": [{"id": "gate", "url": "rtsp://h/0"}], "ingest": {"workers": 1}}
        )
        self.layout = Layout(config, inspect_model(str(SHIPPED)))
        self.fleet = Fleet(self.layout.ledger)
        self.crew = Crew(self.layout, self.fleet, supervisor_pid=1, give_up_files=False)
        self.inference, self.ingest = Worker("inference", 0), Worker("ingest", 0)
        self.crew.inference[:], self.crew.ingest[:] = [self.inference], [self.ingest]  # type: ignore[list-item]
        self.stopped: list[str] = []
        self.roster = Roster(
            self.layout, self.fleet, self.crew, self.stopped.append, lambda: self.now_s
        )
        (place,) = self.layout.places.values()
        place.begun = True
        self.fleet.add(place.config, place.index)
        self.first = place.index

    def put(self, camera: str = "gate", fps: float = 1.0) -> int:
        self.roster.start(CameraConfig(id=camera, url="rtsp://h/0", fps=fps))
        return self.fleet.cameras[camera].index

    def reader_stopped(self, index: int) -> None:
        stopped = CameraReport("gate", CameraState.STOPPED, index=index)
        assert self.roster.heard(stopped)
        self.roster.tick()

    def read(self) -> list[int]:
        """The places that ingest was told to read."""
        return [m.camera.index for m in self.ingest.told if isinstance(m, ReadCameraToo)]

    def known(self) -> list[int]:
        """The places that inference knows, but for those that it was told to forget."""
        known = [self.first]
        for message in self.inference.told:
            if isinstance(message, TakeCameraToo):
                known.append(message.camera.index)
            elif isinstance(message, LetCameraGo):
                known.remove(message.index)  # ValueError: it was never told of that one
        return known


@pytest.fixture
def service() -> Service:
    return Service()


def test_a_camera_that_is_changed_twice_waits_for_its_first_reader(service: Service) -> None:
    second = service.put(fps=2)
    third = service.put(fps=3)
    service.roster.tick()
    assert service.read() == []
    assert service.known() == [service.first]
    assert second not in service.layout.places

    service.reader_stopped(service.first)
    assert service.stopped == ["gate"]
    assert service.known() == []
    assert service.roster.heard(CameraGone(service.first))
    service.roster.tick()
    service.roster.tick()
    assert service.read() == service.known() == [third]


def test_a_camera_that_comes_back_waits_for_its_reader_too(service: Service) -> None:
    service.put(fps=2)
    service.roster.stop("gate")
    again = service.put(fps=2)
    service.roster.tick()
    assert service.read() == []
    service.now_s = 3.0  # a reader that is stuck is waited for no more, with nothing in flight
    service.roster.tick()
    assert service.read() == [again]


def test_inference_that_starts_anew_hears_of_a_changed_camera_once_it_is_read(
    service: Service,
) -> None:
    service.put(fps=2)
    _, spec = service.crew._inference_body(0)
    assert [camera.index for camera in spec.cameras] == [service.first]


def test_inference_rings_the_new_worker_of_a_camera_that_crashed_its_own(service: Service) -> None:
    place = service.layout.places[service.first]
    service.crew._quarantine(place)
    (told,) = service.inference.told
    assert isinstance(told, TakeCameraToo)
    assert (told.camera.index, told.camera.space) == (place.index, place.ingest)
    assert place.ingest != service.ingest.number


def test_a_camera_that_waits_for_room_can_be_stopped(service: Service) -> None:
    wanted = [CameraConfig(id=f"c{n}", url="rtsp://h/0") for n in range(17)]
    service.roster.apply(wanted)
    (waits,) = {camera.id for camera in wanted} - set(service.fleet.cameras)
    service.roster.stop(waits)
    service.reader_stopped(service.first)
    assert service.roster.heard(CameraGone(service.first))
    service.roster.tick()
    service.roster.tick()
    assert waits not in service.fleet.cameras
    with pytest.raises(KeyError):
        service.roster.stop(waits)


def test_a_camera_that_nobody_reads_is_stopped_at_once(service: Service) -> None:
    service.ingest.alive = False
    service.roster.stop("gate")
    assert service.stopped == ["gate"]
    service.roster.worker_died(service.layout.places.values(), "ingest")
    assert service.stopped == ["gate"]


def test_a_reader_that_is_stuck_is_told_as_stopped_before_the_next_one_begins(
    service: Service,
) -> None:
    service.put(fps=2)
    service.roster.tick()
    assert service.stopped == []
    service.now_s = 3.0
    service.roster.tick()
    assert service.stopped == ["gate"]
    service.reader_stopped(service.first)  # at last; the new one is online by now
    assert service.stopped == ["gate"]


def test_a_process_of_its_own_that_runs_already_is_told_of_its_next_camera(
    service: Service,
) -> None:
    place = service.layout.places[service.first]
    service.crew._quarantine(place)
    own = Worker("ingest", place.ingest)
    service.crew.ingest[-1] = own  # type: ignore[call-overload]  # it runs
    service.put(fps=2)
    service.reader_stopped(service.first)
    assert service.roster.heard(CameraGone(service.first))
    for _ in range(2):
        service.roster.tick()
    again = service.layout.places[service.fleet.cameras["gate"].index]
    service.crew._quarantine(again)
    assert again.ingest == own.number
    (read,) = (m for m in own.told if isinstance(m, ReadCameraToo))
    assert read.camera.index == again.index


def test_a_fleet_whose_only_camera_is_leaving_still_has_totals(service: Service) -> None:
    service.roster.stop("gate")
    assert service.fleet.totals()["captured"] == 0


def test_inference_looks_for_what_a_dead_reader_could_not_tell_of(service: Service) -> None:
    assert not service.layout.ready[0].wait(0.0)
    service.crew.close_books(service.ingest)  # type: ignore[arg-type]
    assert service.layout.ready[0].wait(0.0)


def test_frames_of_a_camera_that_leaves_count_all_the_time() -> None:
    """The watchdog took those that were back in the sum, once it had left, for frames that came."""
    service = Service()
    ledger, watchdog = service.fleet.ledger, Watchdog(interval_s=4)
    ledger.add(service.first, "captured", 5)
    ledger.add(service.first, "inferred_event", 4)
    service.roster.stop("gate")
    assert service.fleet.totals()["captured"] == 5
    assert watchdog.is_due(10, service.fleet.totals(), 7)
    ledger.add(service.first, "inferred_event", 1)
    service.reader_stopped(service.first)
    assert service.roster.heard(CameraGone(service.first))
    service.roster.tick()
    assert service.fleet.totals()["captured"] == 5
    assert watchdog.is_due(20, service.fleet.totals(), 7)
