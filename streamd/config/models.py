"""Every configuration key, with its type, default, unit and meaning."""

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
)

from streamd.config.http import LIVE_SCHEMES, HttpConfig
from streamd.config.redis import RedisConfig
from streamd.config.section import Location, Section, has_valid_host, key_of
from streamd.errors import Fault

AutoOrPositive = Literal["auto"] | Annotated[int, Field(ge=1)]
ImageSize = Literal["auto"] | Annotated[int, Field(ge=32)] | tuple[int, int]

_NETWORK = tuple(f"{scheme}://" for scheme in LIVE_SCHEMES)
# FFmpeg's own bounds of what stands before the @.
_LONGEST_LOGIN = {"rtsp": 127, "rtsps": 127, "http": 1023, "https": 1023}
# RFC 6874 escapes the % of an IPv6 zone ([fe80::1%25eth0]); FFmpeg takes it as it is.
_ESCAPED_ZONE = re.compile(r"^((?:[^/?#]*@)?\[[^]/?#]*)%25")


class Publish(StrEnum):
    """Which inferred frames become events."""

    CHANGES = "changes"
    DETECTIONS = "detections"
    ALL = "all"


class ModelConfig(Section):
    """The detector, and how it is run."""

    path: str = Field(
        "engines/shapes.onnx",
        min_length=1,
        description="a detection model: .onnx, .pt (needs the extra [export], once), or a TensorRT "
        ".engine of ultralytics",
    )
    backend: Literal["auto", "tensorrt", "openvino", "onnxruntime"] = Field(
        "auto",
        description="tensorrt, openvino or onnxruntime; auto: tensorrt where it and a GPU are, "
        "else openvino, else onnxruntime",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = Field(
        "auto",
        description="fp32, bf16, fp16 or int8; auto: fp16 with tensorrt, what is measured to be "
        "fastest with openvino, fp32 with onnxruntime",
    )
    calibrate: str | None = Field(
        None,
        description="pictures that int8 is calibrated with and engines are proved on: a camera's "
        "URL, a video, an image or a folder of those; null: generated scenes prove, int8 needs it",
    )
    min_agreement: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = Field(
        "auto",
        description="least agreement of a new engine with its model, 0 to 1; auto: 0.99, for int8 "
        "0.97",
    )
    cache: str = Field("engines", min_length=1, description="folder that keeps built engines")
    imgsz: ImageSize = Field(
        "auto",
        description="input size in pixels: auto (the model's own, narrower for pictures that are "
        "not square), N for N x N, or [height, width]",
    )
    batch_size: int = Field(8, ge=1, le=256, description="largest batch, in frames")
    max_wait_ms: Literal["auto"] | Annotated[float, Field(ge=0, le=10_000)] = Field(
        "auto",
        description="longest wait for a fuller batch, in milliseconds; auto: none where the engine "
        "does a batch no faster than its frames in turn, else by the cameras' rates",
    )
    max_latency_ms: Annotated[float, Field(gt=0, le=60_000)] | None = Field(
        None,
        description="oldest that a live result may be, capture to detections, in milliseconds: "
        "under overload older frames are shed; null: a camera's newest frame waits for its turn",
    )
    runners: AutoOrPositive = Field("auto", description="batches in flight at once")
    confidence: float = Field(0.25, ge=0, le=1, description="lowest score of a detection")
    iou: float = Field(0.7, ge=0, le=1, description="overlap above which NMS drops a box")
    max_detections: int = Field(300, ge=1, le=1000, description="most objects in a frame")
    resample: Literal["fast", "exact"] = Field(
        "fast",
        description="fast: scale, then convert; exact: as in training to the bit, takes memory",
    )

    @field_validator("imgsz", mode="before")
    @classmethod
    def _size_shape(cls, imgsz: object) -> object:
        if imgsz == "auto" or (isinstance(imgsz, int) and not isinstance(imgsz, bool)):
            return imgsz
        if (
            isinstance(imgsz, list | tuple)
            and len(imgsz) == 2
            and all(isinstance(side, int) and side >= 32 for side in imgsz)
        ):
            return tuple(imgsz)
        raise ValueError(f"{imgsz!r} is none of auto, N, [height, width] with sides of 32 or more")


class IngestConfig(Section):
    """The processes that read and decode."""

    workers: Literal["auto"] | Annotated[int, Field(ge=1, le=1000)] = Field(
        "auto",
        description="processes; auto: one for 4 cameras, at most one a core unless each would have "
        "more than 90",
    )
    slots_per_camera: Literal["auto"] | Annotated[int, Field(ge=2, le=256)] = Field(
        "auto", description="frames of a camera in shared memory; auto: 4, files more"
    )


class LogConfig(Section):
    """The log, on stderr and perhaps in a file."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="lowest level: debug, info, warning or error"
    )
    format: Literal["auto", "json", "console"] = Field(
        "auto",
        description="json or console; auto: console in a terminal, else json, in systemd's "
        "journal with its fields",
    )
    file: str | None = Field(
        None, min_length=1, description="file that gets each line as JSON, too; null: stderr alone"
    )
    max_mb: float = Field(
        10.0,
        gt=0,
        le=1e6,
        description="size from which on the file is put aside, as FILE.1, FILE.2, ...",
    )
    kept: int = Field(5, ge=1, le=1000, description="how many of those are kept")


class CameraConfig(Section):
    """One source of frames."""

    id: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$",
        description="name in events and metrics: letters, digits, '_', '-', '.'; at most 64",
    )
    url: str = Field(min_length=1, description="rtsp(s)://, http(s)://, or a file's path")
    enabled: bool = Field(True, description="false: keep the entry, do not read the camera")
    fps: Literal["all"] | Annotated[float, Field(gt=0, le=1000)] = Field(
        "all", description="most frames a second to infer; all: every frame"
    )
    classes: tuple[str, ...] | None = Field(
        None, description="labels to report, as the model names them; null: all"
    )
    decode: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where to decode: cpu, cuda (an NVIDIA GPU); auto: cuda where it can"
    )
    motion: Literal["off", "auto"] = Field(
        "off",
        description="auto: a frame that shows what the last inferred one did has its result",
    )
    idle_interval_s: float = Field(
        5.0,
        gt=0,
        le=3600,
        description="with motion: auto, a frame is inferred at least this often, in seconds",
    )
    priority: int = Field(
        0,
        ge=-100,
        le=100,
        description="under overload the frames of higher ones are inferred first",
    )
    transport: Literal["tcp", "udp"] = Field("tcp", description="transport of RTSP: tcp or udp")
    tls_verify: bool = Field(
        False,
        description="check the certificate of rtsps:// and https://; most cameras sign their own",
    )
    open_timeout_s: float = Field(
        10.0, gt=0, le=300, description="seconds for the source to answer and name its streams"
    )
    stall_timeout_s: float = Field(
        10.0, gt=0, le=3600, description="seconds without a frame after which it is reconnected"
    )
    max_clock_offset_s: float = Field(
        1800.0, ge=0, description="seconds that a camera's clock may be off; 0: use this host's"
    )
    loop: bool = Field(False, description="files: start again at the end")
    paced: bool = Field(False, description="files: in their own time; false: as fast as possible")

    @property
    def is_local_file(self) -> bool:
        """True where `url` names a path of this machine: whatever is no network URL."""
        return not self.url.startswith(_NETWORK)

    @property
    def host(self) -> str:
        """Host and port of a network URL, for comparing; empty for a file."""
        place = "" if self.is_local_file else self.url.partition("://")[2]
        return place.partition("/")[0].rpartition("@")[2]

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, url: str) -> str:
        if any(character < " " or character == "\x7f" for character in url):
            raise ValueError("holds a control character, such as the end of a line")
        scheme, separator, rest = url.partition("://")
        if not separator:
            return url
        if scheme.lower() not in (*LIVE_SCHEMES, "file"):
            known = ", ".join(f"{s}://" for s in LIVE_SCHEMES)
            raise ValueError(f"scheme {scheme!r} is none of {known}, nor is it a file's path")
        if scheme.lower() != "file" and not has_valid_host(rest):
            raise ValueError(
                "has no valid host or port; in a password / ? # @ and : are %2F %3F %23 %40 and %3A"
            )
        login = re.split("[/?#]", rest, maxsplit=1)[0].rpartition("@")[0]
        longest = _LONGEST_LOGIN.get(scheme.lower(), len(login))
        if len(login.encode()) > longest:
            raise ValueError(
                f"has more than {longest} bytes of user and password, escapes counted: FFmpeg "
                "would cut them off"
            )
        rest = _ESCAPED_ZONE.sub(r"\1%", rest)
        return f"{scheme.lower()}://{rest}"

    @field_validator("motion", mode="before")
    @classmethod
    def _off_is_no_boolean(cls, value: object) -> object:
        """YAML reads a bare `off` as false."""
        return "off" if value is False else value

    @field_validator("loop", "paced")
    @classmethod
    def _for_files(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("url", "").startswith(_NETWORK):
            raise ValueError("is for local files")
        return value


class Config(Section):
    """The whole file."""

    model_config = ConfigDict(json_schema_extra={"patternProperties": {"^x-": {}}})

    redis: RedisConfig = Field(default_factory=RedisConfig, description="where events go")
    model: ModelConfig = Field(
        default_factory=ModelConfig, description="the detector, and how it is run"
    )
    http: HttpConfig = Field(default_factory=HttpConfig, description="metrics, health and API")
    ingest: IngestConfig = Field(
        default_factory=IngestConfig, description="the processes that read and decode"
    )
    log: LogConfig = Field(default_factory=LogConfig, description="the log, line by line")
    publish: Publish = Field(
        Publish.DETECTIONS,
        description="changes: when the objects change; detections: frames with objects and the "
        "first empty one after them; all: every frame that has a result",
    )
    cameras: tuple[CameraConfig, ...] = Field(min_length=1, description="the sources of frames")

    _file: str = PrivateAttr("")
    _lines: dict[Location, int] = PrivateAttr(default_factory=dict)
    _literal_secrets: tuple[Location, ...] = PrivateAttr(())

    def located(
        self, file: str, lines: dict[Location, int], literal_secrets: tuple[Location, ...] = ()
    ) -> Self:
        """Remembers where each key stands, for faults that are found later.

        `literal_secrets` are the keys whose password stands in the file itself.
        """
        self._file, self._lines, self._literal_secrets = file, lines, literal_secrets
        return self

    @property
    def file(self) -> str:
        """The file that this was read from; "" where it was made otherwise."""
        return self._file

    @property
    def literal_secrets(self) -> tuple[Location, ...]:
        """The keys whose password stands in the file, instead of in the environment."""
        return self._literal_secrets

    def fault(self, location: Location, what: str) -> Fault:
        """A fault at `location`, such as `("cameras", 0, "url")`, with the line of its key."""
        ways = (location[:end] for end in range(len(location), -1, -1))
        line = next((self._lines[way] for way in ways if way in self._lines), 0)
        return Fault(self._file, line, key_of(location), what)

    def camera_fault(self, camera: CameraConfig, key: str, what: str) -> Fault:
        """A fault at a key of `camera`, which may stand in no file: then only its id is named."""
        if camera in self.cameras:
            return self.fault(("cameras", self.cameras.index(camera), key), what)
        return Fault(f"camera {camera.id}", 0, key, what)

    def keeping(self, other: Self, sections: Iterable[str]) -> Self:
        """This configuration with some sections of another."""
        return self.model_copy(update={name: getattr(other, name) for name in sections})

    @property
    def enabled_cameras(self) -> tuple[CameraConfig, ...]:
        """The cameras that are to be read, in file order."""
        return tuple(camera for camera in self.cameras if camera.enabled)
