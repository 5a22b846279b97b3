"""What workers and the supervisor tell each other, over one pipe a worker."""

from dataclasses import dataclass
from enum import StrEnum

from streamd.config import ModelConfig
from streamd.engines.contract import ModelInfo
from streamd.errors import Reason
from streamd.processes.specs import CameraAssignment, ReadCamera


class CameraState(StrEnum):
    """The life of a camera."""

    CONNECTING = "connecting"
    ONLINE = "online"
    OFFLINE = "offline"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class CameraReport:
    """A camera changed its state.

    `codec`, `width`, `height`, `fps`, `decode` (cpu or cuda) hold once it is online; `decode_note`
    says why it is not decoded where it should be. `index` is the place that it is read for.
    """

    camera: str
    state: CameraState
    reason: Reason | None = None
    detail: str = ""
    codec: str = ""
    width: int = 0
    height: int = 0
    fps: float = 0.0
    decode: str = ""
    decode_note: str = ""
    retry_in_s: float | None = None
    index: int = -1


@dataclass(frozen=True, slots=True)
class EngineReport:
    """An inference worker has a warm engine of `model`; `why` says what made it this backend.

    `swap` is the number of the UseModel that asked for it, 0 for the first engine of a worker.
    `agreement` is that of the engine with its model, from when it was built; None where there was
    no model to compare it with.
    """

    model: str
    backend: str
    why: str
    device: str
    precision: str
    shapes: tuple[str, ...]
    ladder: tuple[int, ...]
    cached: bool
    agreement: float | None
    load_s: float
    swap: int


@dataclass(frozen=True, slots=True)
class ModelRefused:
    """An inference worker cannot use the model of UseModel `swap`; it keeps the one it has."""

    swap: int
    error: str


@dataclass(frozen=True, slots=True)
class RedisReport:
    """A publisher reached Redis, or lost it (`error` says how)."""

    reachable: bool
    error: str = ""


@dataclass(frozen=True, slots=True)
class EventsLost:
    """A gap: `count` events of `camera` will not come, from the one with id `first` to `last`."""

    camera: str
    count: int
    first: str
    last: str
    why: str


@dataclass(frozen=True, slots=True)
class ObjectsSeen:
    """How many objects of each label an inference worker has seen since it said so last."""

    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class WorkerFailed:
    """The last words of a worker that cannot go on; one readable line."""

    error: str


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you alive?"""

    number: int


@dataclass(frozen=True, slots=True)
class Pong:
    """Yes."""

    number: int


@dataclass(frozen=True, slots=True)
class Stop:
    """End. An ingest worker stops reading; an inference worker first empties what is ready."""


@dataclass(frozen=True, slots=True)
class ReadCameraToo:
    """An ingest worker is to read another camera."""

    camera: CameraAssignment


@dataclass(frozen=True, slots=True)
class TakeCameraToo:
    """An inference worker is to take another camera's frames."""

    camera: ReadCamera


@dataclass(frozen=True, slots=True)
class LetCameraGo:
    """A worker has no more to do with the camera of place `index`.

    An ingest worker stops to read it, and reports it as stopped. An inference worker, told once no
    frame of it is left, answers with CameraGone.
    """

    index: int


@dataclass(frozen=True, slots=True)
class UseModel:
    """An inference worker is to load another model and then use it in place of its own.

    It answers with EngineReport or ModelRefused, which carry `number`.
    """

    number: int
    model: ModelInfo
    config: ModelConfig


@dataclass(frozen=True, slots=True)
class CameraGone:
    """An inference worker has forgotten the camera of place `index`."""

    index: int


ToSupervisor = (
    CameraReport
    | EngineReport
    | ModelRefused
    | RedisReport
    | EventsLost
    | ObjectsSeen
    | CameraGone
    | WorkerFailed
    | Pong
)
ToWorker = Ping | Stop | ReadCameraToo | TakeCameraToo | LetCameraGo | UseModel
