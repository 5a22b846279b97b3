"""The routes: metrics, health and the API. Who may ask is http_doors.py's affair."""

from fastapi import FastAPI, HTTPException, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from streamd import __version__
from streamd.fleet import CameraEntry, Fleet
from streamd.metrics import registry_of
from streamd.source import describe


class FrameCounts(BaseModel):
    """The drop ledger of one camera; `captured` is the sum of the others."""

    captured: int
    inferred: int
    rate_capped: int
    overwritten: int
    decode_error: int
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
        url=describe(entry.config),
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


def build_app(fleet: Fleet, inference_workers: int) -> FastAPI:
    """The routes over `fleet`."""
    app = FastAPI(title="streamd", version=__version__, docs_url=None, redoc_url=None)
    registry = registry_of(fleet, inference_workers)

    @app.get("/metrics", include_in_schema=False)
    def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/healthz")
    def healthz() -> Health:
        return Health(status="ok")

    @app.get("/readyz", responses={503: {"model": Health}})
    def readyz(response: Response) -> Health:
        missing = fleet.not_ready(inference_workers)
        response.status_code = 503 if missing else 200
        return Health(status="not ready" if missing else "ok", missing=missing)

    @app.get("/api/v1/cameras")
    def cameras() -> list[CameraStatus]:
        return [camera_status(fleet, entry) for entry in fleet.cameras.values()]

    @app.get("/api/v1/cameras/{camera_id}", responses={404: {"description": "No such camera"}})
    def camera(camera_id: str) -> CameraStatus:
        entry = fleet.cameras.get(camera_id)
        if entry is None:
            raise HTTPException(404, f"no camera {camera_id!r}")
        return camera_status(fleet, entry)

    return app
