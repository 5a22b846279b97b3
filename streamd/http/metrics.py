"""Prometheus metrics, read from shared memory when they are asked for: the hot path has none."""

import os
import time
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector, CollectorRegistry

from streamd import __version__
from streamd.http.nvml import GpuMeter
from streamd.ledger import WORKER
from streamd.linux.usage import CpuMeter, memory_by_role
from streamd.processes.messages import CameraState
from streamd.supervision.fleet import Fleet

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


# The ledger's histograms, as families.
_HISTOGRAMS = {
    "batch_size": ("streamd_batch_size", "Frames in a batch"),
    "batch_wait_s": ("streamd_batch_wait_seconds", "From a frame's slot to its batch"),
    "inference_s": ("streamd_inference_seconds", "Wall time of a batch in the engine"),
    "postprocess_s": ("streamd_postprocess_seconds", "CPU time of a batch after the engine"),
    "publish_s": ("streamd_publish_seconds", "From a write of events to Redis' answer"),
    "slot_to_redis_s": ("streamd_slot_to_redis_seconds", "From a frame's slot to Redis' answer"),
    "capture_to_redis_s": (
        "streamd_capture_to_redis_seconds",
        "From a frame's last packet to Redis' answer",
    ),
}
GPU = {
    "utilization": ("streamd_gpu_utilization_ratio", "Share of time in which kernels ran"),
    "decoder": ("streamd_gpu_decoder_utilization_ratio", "Share of time in which NVDEC decoded"),
    "memory_used": ("streamd_gpu_memory_used_bytes", "Memory in use"),
    "memory_total": ("streamd_gpu_memory_bytes", "Memory of the card"),
    "temperature_c": ("streamd_gpu_temperature_celsius", "Temperature"),
}


class FleetCollector(Collector):
    """Turns the fleet and its ledger into metric families."""

    def __init__(
        self, fleet: Fleet, inference_workers: int, gpu_meter: GpuMeter | None = None
    ) -> None:
        self._fleet = fleet
        self._workers = inference_workers
        self._gpu_meter = gpu_meter or GpuMeter()
        self._cpu_meter = CpuMeter(os.getpid())

    def collect(self) -> Iterator[Metric]:
        """All families, in the order of the data path."""
        yield from self._cameras()
        yield from self._engine()
        yield from self._service()
        yield from self._gpus()

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
        state = GaugeMetricFamily(
            "streamd_camera_state", "1 for the state it is in", labels=["camera", "state"]
        )
        declared = GaugeMetricFamily(
            "streamd_camera_declared_fps", "What the stream says of itself", labels=["camera"]
        )
        delivered = GaugeMetricFamily(
            "streamd_camera_delivered_fps", "Over the last few seconds", labels=["camera"]
        )
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
            for known in CameraState:
                state.add_metric([id_, known], float(entry.report.state is known))
            if entry.online and entry.online.fps:
                declared.add_metric([id_], entry.online.fps)
            delivered.add_metric([id_], entry.rates.captured)
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
        yield from (frames, in_flight, up, state, declared, delivered, age, reconnects, cpu, path)
        yield from (events, objects)

    def _engine(self) -> Iterator[Metric]:
        info = InfoMetricFamily("streamd_engine", "What infers", labels=["worker"])
        for number, report in list(self._fleet.engines.items()):
            what = {
                "model": report.model,
                "backend": report.backend,
                "device": report.device,
                "precision": report.precision,
                "shapes": " ".join(report.shapes),
                "largest_batch": str(report.ladder[-1]),
            }
            info.add_metric([f"inference-{number}"], what)
        yield info
        for name, (family, text) in _HISTOGRAMS.items():
            yield self._histogram(name, family, text)
        sums = {
            column: sum(self._fleet.ledger.get_worker(n, column) for n in range(self._workers))
            for column in WORKER
        }
        yield CounterMetricFamily(
            "streamd_batch_places",
            "Places in the batches, used or not",
            value=sums["batch_slots"],
        )
        cpu = CounterMetricFamily(
            "streamd_inference_cpu_seconds", "CPU time around inference", labels=["stage"]
        )
        for stage, column in _WORKER_STAGES.items():
            cpu.add_metric([stage], sums[column] / 1e9)
        yield cpu
        labels = CounterMetricFamily(
            "streamd_label_objects", "Objects detected, by label", labels=["label"]
        )
        for label, count in list(self._fleet.objects.items()):
            labels.add_metric([label], count)
        yield labels
        yield CounterMetricFamily(
            "streamd_redis_errors", "Times that Redis was lost", value=sums["redis_errors"]
        )
        yield from self._spool(sums)

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

    def _histogram(self, name: str, family: str, text: str) -> Metric:
        first, *others = (self._fleet.ledger.histogram(n, name) for n in range(self._workers))
        seen = sum(others, start=first)
        bounds = [*(f"{bound:.6g}" for bound in seen.bounds), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(seen.counts)), strict=True))
        histogram = HistogramMetricFamily(family, text)
        histogram.add_metric([], buckets, sum_value=seen.sum)
        return histogram

    def _service(self) -> Iterator[Metric]:
        restarts = CounterMetricFamily(
            "streamd_worker_deaths", "Worker processes lost", labels=["role", "reason"]
        )
        for (role, reason), count in list(self._fleet.restarts.items()):
            restarts.add_metric([role, reason], count)
        yield restarts
        cpu = CounterMetricFamily(
            "streamd_process_cpu_seconds", "CPU time of all processes so far", labels=["role"]
        )
        for role, seconds in self._cpu_meter.read().items():
            cpu.add_metric([role], seconds)
        memory = GaugeMetricFamily(
            "streamd_process_memory_bytes", "Their memory, shared parts divided", labels=["role"]
        )
        for role, size in memory_by_role(os.getpid()).items():
            memory.add_metric([role], size)
        yield from (cpu, memory)
        missing = self._fleet.not_ready(self._workers)
        yield GaugeMetricFamily("streamd_ready", "1 while ready", value=float(not missing))
        yield InfoMetricFamily("streamd_build", "Version", value={"version": __version__})

    def _gpus(self) -> Iterator[Metric]:
        loads = self._gpu_meter.read()
        if not loads:
            return
        for value, (family, text) in GPU.items():
            gauge = GaugeMetricFamily(family, text, labels=["gpu"])
            for load in loads:
                told = getattr(load, value)
                if told is not None:
                    gauge.add_metric([str(load.index)], told)
            yield gauge


def registry_of(fleet: Fleet, inference_workers: int) -> CollectorRegistry:
    """A registry with the fleet's metrics alone."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(FleetCollector(fleet, inference_workers))
    return registry
