"""Writes deploy/grafana/streamd.json: python tools/make_dashboard.py

Rows: the fleet, one camera, the engine, delivery. Panels are listed here in words; Grafana's JSON
repeats itself too much to be kept by hand.
"""

import json
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parent.parent / "deploy" / "grafana" / "streamd.json"
SOURCE = {"type": "prometheus", "uid": "${source}"}
_WIDTH, _HEIGHT = 24, 8

# Title, unit, kind, expressions with their legends.
Panel = tuple[str, str, str, list[tuple[str, str]]]


def _quantiles(histogram: str, *percents: int) -> list[tuple[str, str]]:
    return [
        (
            f"histogram_quantile({percent / 100}, sum by (le) (rate({histogram}_bucket[1m])))",
            f"p{percent}",
        )
        for percent in percents
    ]


def _increase(counter: str, by: str) -> str:
    """What a counter grew by in 5 minutes, where a series only begins with what it first counts."""
    begun = f"({counter} unless {counter} offset 5m)"
    return f"sum by ({by}) ({begun} or increase({counter}[5m]))"


ROWS: list[tuple[str, list[Panel]]] = [
    (
        "Fleet",
        [
            ("Cameras up", "none", "stat", [("sum(streamd_camera_up)", "up")]),
            (
                "Cameras down",
                "none",
                "stat",
                [
                    (
                        "count(streamd_camera_up == 0 unless on (instance, camera)"
                        ' streamd_camera_state{state="done"} == 1) or vector(0)',
                        "down",
                    )
                ],
            ),
            ("Ready", "none", "stat", [("min(streamd_ready)", "ready")]),
            (
                "Frames by outcome",
                "ops",
                "stacked",
                [
                    (
                        'sum by (outcome) (rate(streamd_frames_total{outcome!="captured"}[1m]))',
                        "{{outcome}}",
                    )
                ],
            ),
            (
                "Oldest newest frames",
                "s",
                "lines",
                [("topk(10, streamd_camera_last_frame_age_seconds)", "{{camera}}")],
            ),
            (
                "Times offline by reason",
                "none",
                "stacked",
                [(_increase("streamd_camera_failures_total", "reason"), "{{reason}}")],
            ),
        ],
    ),
    (
        "One camera: $camera",
        [
            (
                "Frames by outcome",
                "ops",
                "stacked",
                [
                    (
                        "sum by (outcome) (rate(streamd_frames_total"
                        '{camera=~"$camera",outcome!="captured"}[1m]))',
                        "{{outcome}}",
                    )
                ],
            ),
            (
                "Age of the newest frame",
                "s",
                "lines",
                [('streamd_camera_last_frame_age_seconds{camera=~"$camera"}', "{{camera}}")],
            ),
            (
                "CPU by stage",
                "percentunit",
                "stacked",
                [
                    (
                        "sum by (stage)"
                        ' (rate(streamd_camera_cpu_seconds_total{camera=~"$camera"}[1m]))',
                        "{{stage}}",
                    )
                ],
            ),
            (
                "Objects",
                "ops",
                "lines",
                [
                    (
                        'sum by (camera) (rate(streamd_objects_total{camera=~"$camera"}[1m]))',
                        "{{camera}}",
                    )
                ],
            ),
        ],
    ),
    (
        "Engine",
        [
            (
                "Frames inferred",
                "ops",
                "lines",
                [("sum(rate(streamd_batch_size_sum[1m]))", "frames")],
            ),
            (
                "Mean batch, and places used",
                "none",
                "lines",
                [
                    (
                        "sum(rate(streamd_batch_size_sum[1m]))"
                        " / sum(rate(streamd_batch_size_count[1m]))",
                        "frames a batch",
                    ),
                    (
                        "sum(rate(streamd_batch_size_sum[1m]))"
                        " / sum(rate(streamd_batch_places_total[1m]))",
                        "share of places",
                    ),
                ],
            ),
            (
                "Batches in inference at once",
                "none",
                "lines",
                [("sum(rate(streamd_inference_seconds_sum[1m]))", "busy")],
            ),
            (
                "CPU around inference",
                "percentunit",
                "stacked",
                [("sum by (stage) (rate(streamd_inference_cpu_seconds_total[1m]))", "{{stage}}")],
            ),
            (
                "Time of a batch in the engine",
                "s",
                "lines",
                _quantiles("streamd_inference_seconds", 50, 99),
            ),
            (
                "Objects by label",
                "ops",
                "stacked",
                [
                    (
                        "topk(10, sum by (label) (rate(streamd_label_objects_total[1m])))",
                        "{{label}}",
                    )
                ],
            ),
            (
                "CPU by role, in cores",
                "none",
                "stacked",
                [("sum by (role) (rate(streamd_process_cpu_seconds_total[1m]))", "{{role}}")],
            ),
            (
                "Memory by role",
                "bytes",
                "stacked",
                [("sum by (role) (streamd_process_memory_bytes)", "{{role}}")],
            ),
            (
                "GPU",
                "percentunit",
                "lines",
                [
                    ("streamd_gpu_utilization_ratio", "{{gpu}} kernels"),
                    ("streamd_gpu_decoder_utilization_ratio", "{{gpu}} decoder"),
                    (
                        "streamd_gpu_memory_used_bytes / streamd_gpu_memory_bytes",
                        "{{gpu}} memory",
                    ),
                ],
            ),
            (
                "Workers lost",
                "none",
                "stacked",
                [
                    (
                        _increase("streamd_worker_deaths_total", "role, reason"),
                        "{{role}} {{reason}}",
                    )
                ],
            ),
        ],
    ),
    (
        "Delivery",
        [
            (
                "Capture to Redis",
                "s",
                "lines",
                _quantiles("streamd_capture_to_redis_seconds", 50, 95, 99),
            ),
            (
                "Events",
                "ops",
                "stacked",
                [("sum by (result) (rate(streamd_events_total[1m]))", "{{result}}")],
            ),
            ("Events on disk", "none", "lines", [("sum(streamd_spool_events)", "events")]),
            (
                "Age of the oldest on disk",
                "s",
                "lines",
                [("max(streamd_spool_oldest_age_seconds)", "age")],
            ),
            (
                "Times that Redis was lost",
                "none",
                "lines",
                [("sum(increase(streamd_redis_errors_total[5m]))", "lost")],
            ),
        ],
    ),
]


def main() -> None:
    """Writes the file."""
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(json.dumps(dashboard(), indent=1) + "\n")


def dashboard() -> dict[str, Any]:
    """The whole of it, for any Prometheus that the viewer picks."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS:
        panels.append(
            {
                "type": "row",
                "title": title,
                "collapsed": False,
                "panels": [],
                "id": len(panels) + 1,
                "gridPos": {"h": 1, "w": _WIDTH, "x": 0, "y": top},
            }
        )
        top += 1
        left = 0
        for panel in row:
            width = 4 if panel[2] == "stat" else 8
            if left + width > _WIDTH:
                left, top = 0, top + _HEIGHT
            place = {"h": _HEIGHT, "w": width, "x": left, "y": top}
            panels.append(_panel(panel, len(panels) + 1, place))
            left += width
        top += _HEIGHT
    return {
        "title": "streamd",
        "uid": "streamd",
        "tags": ["streamd"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_source_variable(), _camera_variable()]},
        "panels": panels,
    }


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    title, unit, kind, queries = panel
    lines = {
        "drawStyle": "line",
        "fillOpacity": 60 if kind == "stacked" else 10,
        "showPoints": "never",
    }
    stacking = {"stacking": {"mode": "normal" if kind == "stacked" else "none", "group": "A"}}
    custom = {} if kind == "stat" else lines | stacking
    return {
        "id": number,
        "type": "stat" if kind == "stat" else "timeseries",
        "title": title,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0, "custom": custom}, "overrides": []},
        "options": {}
        if kind == "stat"
        else {"legend": {"displayMode": "list", "placement": "bottom"}},
        "targets": [
            {"refId": chr(65 + index), "datasource": SOURCE, "expr": query, "legendFormat": legend}
            for index, (query, legend) in enumerate(queries)
        ],
    }


def _source_variable() -> dict[str, Any]:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _camera_variable() -> dict[str, Any]:
    return {
        "name": "camera",
        "label": "Camera",
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": "label_values(streamd_camera_up, camera)", "refId": "camera"},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "sort": 1,
    }


if __name__ == "__main__":
    main()
