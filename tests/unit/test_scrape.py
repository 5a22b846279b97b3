"""Metrics as observers read them, and slopes over time."""

import pytest

from bench.soak import slope_of
from streamd.capacity.scrape import parse, quantile_s, stage_ms

BEFORE = """\
# TYPE streamd_batch_size histogram
streamd_batch_size_bucket{le="+Inf"} 5
streamd_batch_size_count 5
streamd_batch_size_sum 10
# TYPE streamd_camera_cpu_seconds_total counter
streamd_camera_cpu_seconds_total{camera="a",stage="decode"} 1
streamd_camera_cpu_seconds_total{camera="b",stage="decode"} 2
streamd_camera_cpu_seconds_total{camera="a",stage="scale"} 1
streamd_camera_cpu_seconds_total{camera="a",stage="copy"} 0
# TYPE streamd_inference_cpu_seconds_total counter
streamd_inference_cpu_seconds_total{stage="batch"} 0
streamd_inference_cpu_seconds_total{stage="gather"} 0
streamd_inference_cpu_seconds_total{stage="postprocess"} 0
streamd_inference_cpu_seconds_total{stage="publish"} 0
# TYPE streamd_slot_to_redis_seconds histogram
streamd_slot_to_redis_seconds_bucket{le="0.01"} 5
streamd_slot_to_redis_seconds_bucket{le="0.1"} 10
streamd_slot_to_redis_seconds_bucket{le="+Inf"} 10
"""


def test_samples_of_all_cameras_are_added_up() -> None:
    samples = parse(BEFORE)
    assert samples["streamd_camera_cpu_seconds_total", "decode"] == 3
    assert samples["streamd_batch_size_sum", ""] == 10


def test_costs_are_those_between_two_scrapes() -> None:
    after = BEFORE.replace("size_sum 10", "size_sum 30").replace('"decode"} 2', '"decode"} 2.5')
    costs = stage_ms(parse(BEFORE), parse(after))
    assert costs["decode"] == pytest.approx(1000 * 0.5 / 20)
    assert costs["scale"] == 0


def test_quantiles_are_those_between_two_scrapes() -> None:
    after = (
        BEFORE.replace('le="0.01"} 5', 'le="0.01"} 5')
        .replace('le="0.1"} 10', 'le="0.1"} 19')
        .replace('le="+Inf"} 10', 'le="+Inf"} 20')
    )
    before = parse(BEFORE)
    assert quantile_s(before, parse(after), 0.5) == 0.1
    assert quantile_s(before, parse(after), 0.99) == float("inf")
    assert quantile_s(before, before, 0.5) == 0.0


def test_a_slope_comes_with_its_error() -> None:
    straight = slope_of([0, 1, 2, 3], [5, 7, 9, 11])
    assert straight.per_hour == pytest.approx(2)
    assert straight.error == pytest.approx(0, abs=1e-6)
    noisy = slope_of([0, 1, 2, 3], [0, 1, 0, 1])
    assert noisy.per_hour == pytest.approx(0.2)
    assert noisy.error == pytest.approx(0.2828, abs=1e-3)  # sqrt(0.8 / 2 / 5)
