"""The routes: metrics, health and the API. Who may ask is doors.py's affair."""

from threading import Lock
from typing import Annotated, Any, Protocol

from fastapi import Body, FastAPI, HTTPException, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.routing import Match

from streamd import __version__
from streamd.config import CameraConfig, HttpConfig, load_camera, mask_url
from streamd.config.admission import admit
from streamd.config.secrets import mask_text
from streamd.config.section import key_of
from streamd.errors import AdmissionError, ConfigError, StreamdError
from streamd.http.metrics import registry_of
from streamd.supervision.fleet import CameraEntry, Fleet

_CAMERA = CameraConfig.model_json_schema()
_CameraId = Annotated[str, Path(json_schema_extra=_CAMERA["properties"]["id"])]


class FrameCounts(BaseModel):
    """The drop ledger of one camera; `captured` is the sum of the others."""

    captured: int
    inferred: int
    rate_capped: int
    still: int
    overwritten: int
    decode_error: int
    shed: int
    lost_ingest: int
    lost_inference: int
    in_flight: int


class CameraStatus(BaseModel):
    """One camera, as it is now. Rates are frames a second over the last few seconds."""

    id: str
    url: str
    state: str
    reason: str | None
    detail: str
    since: float
    codec: str | None
    width: int | None
    height: int | None
    declared_fps: float | None
    captured_fps: float
    inferred_fps: float
    last_frame_age_s: float | None
    decode: str | None
    failures: dict[str, int]
    frames: FrameCounts
    events: int
    events_lost: int


class Changed(BaseModel):
    """What became of a camera: started, restarted, unchanged or stopped."""

    camera: str
    result: str


class Refused(BaseModel):
    """Why a request was not followed, in one line."""

    detail: str


class Health(BaseModel):
    """`status` is ok, or not ready for the `missing` reasons."""

    status: str
    missing: list[str] = []


def camera_status(fleet: Fleet, entry: CameraEntry) -> CameraStatus:
    """What the API shows of a camera."""
    report, online = entry.report, entry.online
    age_s = fleet.last_frame_age_s(entry)
    return CameraStatus(
        id=entry.config.id,
        url=mask_url(entry.config.url),
        state=report.state,
        reason=report.reason,
        detail=report.detail,
        since=round(entry.since_s, 3),
        codec=online.codec if online else None,
        width=online.width if online else None,
        height=online.height if online else None,
        declared_fps=round(online.fps, 3) if online and online.fps else None,
        captured_fps=round(entry.rates.captured, 2),
        inferred_fps=round(entry.rates.inferred, 2),
        last_frame_age_s=None if age_s is None else round(age_s, 3),
        decode=online.decode if online else None,
        failures=dict(entry.reconnects),
        frames=FrameCounts(**fleet.counts(entry).as_dict()),
        events=fleet.ledger.get(entry.index, "events"),
        events_lost=fleet.ledger.get(entry.index, "events_lost"),
    )


class Control(Protocol):
    """What may be changed from outside; see streamd.supervision.control."""

    def put_camera(self, camera: CameraConfig) -> str:
        """Reads `camera` from now on."""
        ...

    def delete_camera(self, camera: str) -> str:
        """Reads a camera no more."""
        ...


def build_app(
    fleet: Fleet, inference_workers: int, config: HttpConfig, control: Control
) -> FastAPI:
    """The routes over `fleet` and `control`."""
    app = FastAPI(title="streamd", version=__version__, docs_url=None, redoc_url=None)
    registry = registry_of(fleet, inference_workers)
    # Thousands of cameras take half a second of Python, which all other answers would wait for.
    one_at_a_time = Lock()

    @app.get("/metrics", include_in_schema=False)
    def metrics() -> Response:
        with one_at_a_time:
            return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz")
    async def healthz() -> Health:
        return Health(status="ok")

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", responses={503: {"model": Health}})
    async def readyz(response: Response) -> Health:
        missing = fleet.not_ready(inference_workers)
        response.status_code = 503 if missing else 200
        return Health(status="not ready" if missing else "ok", missing=missing)

    @app.get("/api/v1/cameras")
    def cameras() -> list[CameraStatus]:
        return [camera_status(fleet, entry) for entry in fleet.cameras.values()]

    @app.get("/api/v1/cameras/{camera_id}", responses={404: {"description": "No such camera"}})
    def camera(camera_id: _CameraId) -> CameraStatus:
        entry = fleet.cameras.get(camera_id)
        if entry is None:
            raise HTTPException(404, f"no camera {camera_id!r}")
        return camera_status(fleet, entry)

    _add_changes(app, config, control)

    @app.exception_handler(405)
    async def not_allowed(request: Request, _: Exception) -> JSONResponse:
        # A route knows its own method only (RFC 9110, 15.5.6: those of the path are to be told).
        matching = (r for r in app.router.routes if r.matches(request.scope)[0] is not Match.NONE)
        methods = {method for route in matching for method in getattr(route, "methods", ())}
        allowed = {"Allow": ", ".join(sorted(methods))}
        return JSONResponse({"detail": "Method Not Allowed"}, 405, allowed)

    return app


def _add_changes(app: FastAPI, config: HttpConfig, control: Control) -> None:
    """The routes that change something; they are closed as long as no token is set."""

    @app.exception_handler(RequestValidationError)
    def not_valid(request: Request, error: Exception) -> JSONResponse:
        kind = request.headers.get("content-type", "").partition(";")[0]
        if request.method == "PUT" and not kind.lower().endswith("json"):
            return JSONResponse({"detail": "Content-Type: is to be application/json"}, 415)
        # FastAPI's own answer shows the input, which may hold a password or be no text at all.
        faults = error.errors() if isinstance(error, RequestValidationError) else []
        detail = "; ".join(f"{key_of(item['loc'])}: {item['msg']}" for item in faults)
        return JSONResponse({"detail": mask_text(detail)}, 422)

    @app.put(
        "/api/v1/cameras/{camera_id}",
        responses={code: {"model": Refused} for code in (400, 403, 409, 415, 422, 503)},
        openapi_extra=_camera_body(),
    )
    def put_camera(camera_id: _CameraId, body: Annotated[dict[str, Any], Body()]) -> Changed:
        _check_open(config)
        if body.setdefault("id", camera_id) != camera_id:
            raise HTTPException(422, f"id: is another one than {camera_id} in the path")
        try:
            camera = load_camera(body)
        except ConfigError as error:
            faults = (f"{fault.key}: {fault.what}" for fault in error.faults)
            raise HTTPException(422, "; ".join(faults)) from None
        try:
            return Changed(camera=camera_id, result=control.put_camera(admit(camera, config)))
        except AdmissionError as error:
            raise HTTPException(403, str(error)) from None
        except StreamdError as error:
            raise HTTPException(409, mask_text(str(error))) from None
        except TimeoutError:
            raise HTTPException(503, "the service is busy") from None

    @app.delete(
        "/api/v1/cameras/{camera_id}",
        responses={code: {"model": Refused} for code in (403, 404, 503)},
    )
    def delete_camera(camera_id: _CameraId) -> Changed:
        _check_open(config)
        try:
            return Changed(camera=camera_id, result=control.delete_camera(camera_id))
        except KeyError:
            raise HTTPException(404, f"no camera {camera_id!r}") from None
        except TimeoutError:
            raise HTTPException(503, "the service is busy") from None


def _check_open(config: HttpConfig) -> None:
    if config.token is None:
        raise HTTPException(403, "http.token is not set: cameras cannot be changed here")


def _camera_body() -> dict[str, Any]:
    """The request's schema: a camera as in the file, without its id, which stands in the path."""
    properties = {name: value for name, value in _CAMERA["properties"].items() if name != "id"}
    schema = {**_CAMERA, "properties": properties, "required": ["url"]}
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}
