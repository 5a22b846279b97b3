"""What workers are told at their start; it travels to them as an argument of their process."""

from dataclasses import dataclass
from typing import Literal

from streamd.config import CameraConfig, LogConfig, ModelConfig, Publish, RedisConfig
from streamd.engines.contract import ModelInfo
from streamd.ledger import Ledger
from streamd.linux.memory import Doorbell
from streamd.processes.crash_report import CrashReport
from streamd.slots import InputShape, Ring, SlotPool


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """Who a worker is: `name` in the log and in `ps`, the supervisor's process id."""

    name: str
    supervisor_pid: int
    log: LogConfig


@dataclass(frozen=True, slots=True)
class CameraAssignment:
    """A camera and its place in shared memory; `reader` is its inference worker's number.

    `channels` counts the cameras of its host: those of one recorder fail together.
    """

    config: CameraConfig
    index: int
    ring: Ring
    shapes: tuple[InputShape, ...]
    session: int
    reader: int
    channels: int


@dataclass(frozen=True, slots=True)
class IngestSpec:
    """All that an ingest worker is told at its start.

    `ready` has one bell for each inference worker; `space` is rung when slots were released.
    """

    identity: WorkerIdentity
    cameras: tuple[CameraAssignment, ...]
    pool: SlotPool
    ledger: Ledger
    ready: tuple[Doorbell, ...]
    space: Doorbell
    crash: CrashReport
    resample: Literal["fast", "exact"]
    give_up_files: bool


@dataclass(frozen=True, slots=True)
class ReadCamera:
    """A camera as its inference worker knows it.

    `space` is the number of the bell to ring when slots of it were released.
    """

    config: CameraConfig
    index: int
    ring: Ring
    space: int


@dataclass(frozen=True, slots=True)
class InferenceSpec:
    """All that an inference worker is told at its start; `spaces` has a bell an ingest worker."""

    identity: WorkerIdentity
    number: int
    cameras: tuple[ReadCamera, ...]
    model: ModelInfo
    model_config: ModelConfig
    redis: RedisConfig
    publish: Publish
    pool: SlotPool
    ledger: Ledger
    ready: Doorbell
    spaces: tuple[Doorbell, ...]
