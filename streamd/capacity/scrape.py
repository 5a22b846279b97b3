"""A daemon's metrics as its observers read them: totals over the cameras, stages, quantiles."""

import urllib.request

from prometheus_client.parser import text_string_to_metric_families

Samples = dict[tuple[str, str], float]

FRAMES = ("streamd_batch_size_sum", "")
_CAMERA_STAGES = ("decode", "scale", "copy")
_BATCH_STAGES = ("batch", "gather", "postprocess", "publish")


def scrape(http: str, timeout_s: float = 5.0) -> Samples:
    """The metrics of the daemon at `http`. Raises OSError where it does not answer."""
    with urllib.request.urlopen(f"{http}/metrics", timeout=timeout_s) as answer:
        return parse(answer.read().decode())


def parse(metrics: str) -> Samples:
    """Samples by name and the values of their labels but `camera`, joined by commas; summed up."""
    samples: Samples = {}
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            labels = ",".join(v for label, v in sample.labels.items() if label != "camera")
            key = sample.name, labels
            samples[key] = samples.get(key, 0.0) + float(sample.value)
    return samples


def quantile_s(before: Samples, after: Samples, share: float) -> float:
    """Seconds from slot to Redis that `share` of the frames between two scrapes stay below.

    It is a bucket's upper bound; 0 where there was no frame.
    """
    buckets = sorted(
        (float(bound), count - before.get((name, bound), 0.0))
        for (name, bound), count in after.items()
        if name == "streamd_slot_to_redis_seconds_bucket"
    )
    total = buckets[-1][1] if buckets else 0.0
    return next((bound for bound, count in buckets if total and count >= share * total), 0.0)


def stage_ms(before: Samples, after: Samples) -> dict[str, float]:
    """CPU milliseconds a frame between two scrapes, by stage, without inference."""
    frames = after[FRAMES] - before.get(FRAMES, 0.0)

    def cost(name: str, stage: str) -> float:
        spent_s = after[name, stage] - before.get((name, stage), 0.0)
        return 1000 * spent_s / frames if frames else 0.0

    cameras = {stage: cost("streamd_camera_cpu_seconds_total", stage) for stage in _CAMERA_STAGES}
    batches = {stage: cost("streamd_inference_cpu_seconds_total", stage) for stage in _BATCH_STAGES}
    return cameras | batches
