"""Prometheus metrics, read from shared memory when they are asked for: the hot path has none."""

import time
from collections.abc import Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector, CollectorRegistry

from streamd import __version__
from streamd.fleet import Fleet
from streamd.ledger import LATENCY_BOUNDS_S, WORKER
from streamd.messages import CameraState

_STAGES = {
    "decode": "decode_cpu_ns",
    "scale": "scale_cpu_ns",
    "copy": "copy_cpu_ns",
}
_WORKER_STAGES = {
    "batch": "batch_cpu_ns",
    "gather": "gather_cpu_ns",
    "postprocess": "postprocess_cpu_ns",
    "publish": "publish_cpu_ns",
}


class FleetCollector(Collector):
    """Turns the fleet and its ledger into metric families."""

    def __init__(self, fleet: Fleet, inference_workers: int) -> None:
        self._fleet = fleet
        self._workers = inference_workers

    def collect(self) -> Iterator[Metric]:
        """All families, in the order of the data path."""
        yield from self._cameras()
        yield from self._engine()
        yield from self._service()

    def _cameras(self) -> Iterator[Metric]:
        frames = CounterMetricFamily(
            "streamd_frames",
            "Frames by outcome; captured is their sum",
            labels=["camera", "outcome"],
        )
        in_flight = GaugeMetricFamily(
            "streamd_frames_in_flight", "Frames captured, outcome still open", labels=["camera"]
        )
        up = GaugeMetricFamily("streamd_camera_up", "1 while frames flow", labels=["camera"])
        age = GaugeMetricFamily(
            "streamd_camera_last_frame_age_seconds", "Age of the newest frame", labels=["camera"]
        )
        reconnects = CounterMetricFamily(
            "streamd_camera_failures",
            "Times that a camera went offline",
            labels=["camera", "reason"],
        )
        cpu = CounterMetricFamily(
            "streamd_camera_cpu_seconds", "CPU time of a camera", labels=["camera", "stage"]
        )
        path = GaugeMetricFamily(
            "streamd_camera_decode_path", "1 for where it is decoded", labels=["camera", "path"]
        )
        events = CounterMetricFamily(
            "streamd_events", "Events by what became of them", labels=["camera", "result"]
        )
        objects = CounterMetricFamily("streamd_objects", "Objects detected", labels=["camera"])
        ledger = self._fleet.ledger
        for id_, entry in self._fleet.cameras.items():
            counts = self._fleet.counts(entry).as_dict()
            in_flight.add_metric([id_], counts.pop("in_flight"))
            for outcome, count in counts.items():
                frames.add_metric([id_, outcome], count)
            up.add_metric([id_], float(entry.report.state is CameraState.ONLINE))
            seconds = self._fleet.last_frame_age_s(entry)
            if seconds is not None:
                age.add_metric([id_], seconds)
            for reason, count in list(entry.reconnects.items()):
                reconnects.add_metric([id_, reason], count)
            for stage, column in _STAGES.items():
                cpu.add_metric([id_, stage], ledger.get(entry.index, column) / 1e9)
            if entry.online:
                path.add_metric([id_, entry.online.decode], 1)
            events.add_metric([id_, "sent"], ledger.get(entry.index, "events"))
            events.add_metric([id_, "lost"], ledger.get(entry.index, "events_lost"))
            objects.add_metric([id_], ledger.get(entry.index, "objects"))
        yield from (frames, in_flight, up, age, reconnects, cpu, path, events, objects)

    def _engine(self) -> Iterator[Metric]:
        sums = {
            column: sum(self._fleet.ledger.get_worker(n, column) for n in range(self._workers))
            for column in WORKER
        }
        yield CounterMetricFamily("streamd_batches", "Batches inferred", value=sums["batches"])
        yield CounterMetricFamily(
            "streamd_batch_frames", "Frames in those batches", value=sums["frames"]
        )
        yield CounterMetricFamily(
            "streamd_batch_places",
            "Places in those batches, used or not",
            value=sums["batch_slots"],
        )
        yield CounterMetricFamily(
            "streamd_inference_seconds",
            "Wall time of inference, summed over runners",
            value=sums["infer_wall_ns"] / 1e9,
        )
        cpu = CounterMetricFamily(
            "streamd_inference_cpu_seconds", "CPU time around inference", labels=["stage"]
        )
        for stage, column in _WORKER_STAGES.items():
            cpu.add_metric([stage], sums[column] / 1e9)
        yield cpu
        yield CounterMetricFamily(
            "streamd_redis_errors", "Times that Redis was lost", value=sums["redis_errors"]
        )
        yield from self._spool(sums)
        yield self._latency()

    def _spool(self, sums: dict[str, int]) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "streamd_spool_events", "Events that wait on disk", value=sums["spool_events"]
        )
        yield GaugeMetricFamily(
            "streamd_spool_bytes", "What they take on disk", value=sums["spool_bytes"]
        )
        since_ms = [
            self._fleet.ledger.get_worker(n, "spool_oldest_ms") for n in range(self._workers)
        ]
        oldest_ms = min(filter(None, since_ms), default=0)
        yield GaugeMetricFamily(
            "streamd_spool_oldest_age_seconds",
            "How long the oldest of them has waited",
            value=max(0.0, time.time() - oldest_ms / 1000) if oldest_ms else 0.0,
        )

    def _latency(self) -> Metric:
        counts = [0] * (len(LATENCY_BOUNDS_S) + 1)
        for worker in range(self._workers):
            pairs = zip(counts, self._fleet.ledger.latency_counts(worker), strict=True)
            counts = [total + more for total, more in pairs]
        buckets, total = [], 0
        for bound, count in zip([*LATENCY_BOUNDS_S, float("inf")], counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound == float("inf") else f"{bound:.6g}", float(total)))
        histogram = HistogramMetricFamily(
            "streamd_slot_to_redis_seconds", "From a frame's slot to Redis' answer"
        )
        histogram.add_metric([], buckets, sum_value=None)
        return histogram

    def _service(self) -> Iterator[Metric]:
        restarts = CounterMetricFamily(
            "streamd_worker_deaths", "Worker processes lost", labels=["role", "reason"]
        )
        for (role, reason), count in list(self._fleet.restarts.items()):
            restarts.add_metric([role, reason], count)
        yield restarts
        missing = self._fleet.not_ready(self._workers)
        yield GaugeMetricFamily("streamd_ready", "1 while ready", value=float(not missing))
        yield InfoMetricFamily("streamd_build", "Version", value={"version": __version__})


def registry_of(fleet: Fleet, inference_workers: int) -> CollectorRegistry:
    """A registry with the fleet's metrics alone."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(FleetCollector(fleet, inference_workers))
    return registry
