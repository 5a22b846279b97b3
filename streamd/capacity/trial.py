"""One number of cameras, for some seconds: what came out, how old it was, where the time went."""

import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from streamd.capacity.kind import CameraKind
from streamd.capacity.scrape import FRAMES, Samples, scrape, stage_ms
from streamd.capacity.senders import Senders
from streamd.config import RedisConfig
from streamd.linux.cores import available_cores
from streamd.redis_client import connect
from streamd.testing.daemon_run import DaemonRun, write_settings

_READY_WITHIN_S = 600.0  # an engine may have to be built
_ONLINE_WITHIN_S = 60.0
_SETTLES_S = 3.0
_ENOUGH_FRAMES = 0.95
_IDLE = 0.85  # of the cores in use: below, what limits is not the CPU
_STREAM = "streamd:bench"


@dataclass(frozen=True, slots=True)
class Plan:
    """What all trials have in common; `fps` is inferred of each camera."""

    kind: CameraKind
    fps: float
    clip: Path
    model: str
    redis: RedisConfig
    seconds: float
    target_ms: float


@dataclass(frozen=True, slots=True)
class Trial:
    """What was measured. Ages are from capture to the event in Redis, in milliseconds.

    `cpu` is the share of the machine's cores that each stage took, 0 to 1; `sent` is the share of
    the frames that the simulated cameras managed to send.
    """

    cameras: int
    wanted_fps: float
    fps: float
    p50_ms: float
    p99_ms: float
    target_ms: float
    infer_busy: float
    sent: float
    cpu: dict[str, float]

    @property
    def meets(self) -> bool:
        """Whether every frame that was wanted was inferred, and in time."""
        return self.fps >= _ENOUGH_FRAMES * self.wanted_fps and self.p99_ms <= self.target_ms

    @property
    def limit(self) -> str:
        """What there is no more of."""
        if self.sent < _ENOUGH_FRAMES and self.cpu["simulated cameras"] > max(
            share for stage, share in self.cpu.items() if stage != "simulated cameras"
        ):
            return "the simulated cameras are"
        if sum(self.cpu.values()) >= _IDLE:
            most = max(self.cpu, key=lambda stage: self.cpu[stage])
            return {"infer": "the engine is", "decode": "decoding is"}.get(most, f"{most} is")
        if self.infer_busy >= _IDLE:
            return "the engine is"
        return "the latency of a batch is"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"meets": self.meets, "limit": self.limit}


def run_trial(plan: Plan, cameras: int, folder: Path) -> Trial:
    """Runs a daemon on `cameras` simulated ones. Raises SetupError where it does not come up."""
    with (
        closing(connect(plan.redis)) as client,
        closing(Senders(plan.clip, cameras)) as senders,
    ):
        client.delete(_STREAM)
        path = write_settings(folder, _settings(plan, senders.urls, folder))
        with closing(DaemonRun(path)) as daemon:
            daemon.wait_for_log("ready", _READY_WITHIN_S)
            daemon.wait_online(_ONLINE_WITHIN_S)
            time.sleep(_SETTLES_S)
            before, spent = scrape(daemon.http), daemon.cpu_s()
            sent_s, began, began_s = senders.cpu_s(), time.time(), time.monotonic()
            time.sleep(plan.seconds)
            after, spent_now = scrape(daemon.http), daemon.cpu_s()
            sender_s = senders.cpu_s() - sent_s
            took_s, ended = time.monotonic() - began_s, time.time()
        entries = client.xrange(_STREAM, int(began * 1000), int(ended * 1000))
    ages = [int(key.split("-")[0]) - int(fields["ts"]) for key, fields in entries]
    p50_ms, p99_ms = np.percentile(ages, [50, 99]) if ages else (float("inf"), float("inf"))
    captured = _grown(before, after, ("streamd_frames_total", "captured"))
    infer_s = _grown(before, after, ("streamd_inference_seconds_sum", ""))
    spent_s = {role: now_s - spent.get(role, 0.0) for role, now_s in spent_now.items()}
    return Trial(
        cameras=cameras,
        wanted_fps=cameras * plan.fps,
        fps=len(entries) / took_s,
        p50_ms=float(p50_ms),
        p99_ms=float(p99_ms),
        target_ms=plan.target_ms,
        infer_busy=infer_s / took_s,
        sent=captured / took_s / (cameras * plan.kind.fps),
        cpu=_shares(before, after, spent_s | {"simulated cameras": sender_s}, took_s),
    )


def _settings(plan: Plan, urls: list[str], folder: Path) -> dict[str, Any]:
    return {
        "redis": {
            "url": plan.redis.url,
            "stream": _STREAM,
            "status_stream": f"{_STREAM}:status",
            "max_entries": 1_000_000,
            "spool": {"path": str(folder / "spool")},
        },
        "http": {"port": 0, "requests_per_s": 1000},
        "log": {"format": "json"},
        "model": {"path": plan.model},
        "publish": "all",
        "cameras": [
            # This host's clock alone: ages are between two looks at it.
            {"id": f"c{number}", "url": url, "fps": plan.fps, "max_clock_offset_s": 0}
            for number, url in enumerate(urls)
        ],
    }


def _grown(before: Samples, after: Samples, key: tuple[str, str]) -> float:
    return after.get(key, 0.0) - before.get(key, 0.0)


def _shares(
    before: Samples, after: Samples, spent_s: dict[str, float], took_s: float
) -> dict[str, float]:
    """The share of the cores by stage; what no stage names is the rest of its role."""
    frames = _grown(before, after, FRAMES)
    stage_s = {stage: ms * frames / 1000 for stage, ms in stage_ms(before, after).items()}
    ingest_s = stage_s["decode"] + stage_s["scale"] + stage_s["copy"]
    around_s = sum(stage_s.values()) - ingest_s
    found = {
        "decode": stage_s["decode"],
        "scale": stage_s["scale"] + stage_s["copy"],
        "receiving": spent_s.get("ingest", 0.0) - ingest_s,
        "infer": spent_s.get("inference", 0.0) - around_s,
        "batch and gather": stage_s["batch"] + stage_s["gather"],
        "postprocess": stage_s["postprocess"],
        "publish": stage_s["publish"],
        "supervisor": spent_s.get("supervisor", 0.0),
        "simulated cameras": spent_s["simulated cameras"],
    }
    cores = available_cores()
    return {stage: max(0.0, seconds) / took_s / cores for stage, seconds in found.items()}
