"""What operators install: the unit, alerts and dashboard, held to the daemon as it is."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from streamd.config import load_config
from streamd.demo.clips import Clip
from streamd.http.metrics import GPU

from .harness import DaemonFactory, eventually

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "systemd" / "streamd.service"
PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "streamd.json"
_NAME = re.compile(r"\bstreamd_[a-z_]+")
_SUFFIXES = ("_bucket", "_sum", "_count", "_created")


def named_in(*texts: str) -> set[str]:
    """The metrics that texts speak of; of a histogram its name."""
    names = {name for text in texts for name in _NAME.findall(text)}
    for suffix in _SUFFIXES:
        names = {name.removesuffix(suffix) for name in names}
    return names - {"streamd_token"}


def test_documents_alerts_and_dashboard_speak_of_the_metrics_that_there_are(
    daemon: DaemonFactory, clip: Clip
) -> None:
    running = daemon(f"cameras: [{{id: a, url: {clip.path}, loop: true}}]")
    running.wait_events(1)
    text = running.get("/metrics").text
    exported = set()
    for family in text_string_to_metric_families(text):
        kind = {"counter": "_total", "info": "_info"}.get(family.type, "")
        exported.add(family.name + kind)
    ours = {name for name in exported if name.startswith("streamd_")}
    operations = (ROOT / "docs" / "operations.md").read_text()
    table = operations[operations.index("## Metrics") : operations.index("Outcomes of a frame")]
    assert named_in(table) == ours
    alerts = (PROMETHEUS / "alerts.yml").read_text()
    queries = [
        target["expr"]
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for target in panel.get("targets", ())
    ]
    assert len(queries) > 15
    of_gpus = {family for family, _ in GPU.values()}
    assert of_gpus <= named_in(operations)
    assert not named_in(alerts, *queries) - ours - of_gpus
    # The first scrape of a dashboard must not fail for a metric that has a label too many.
    assert 'streamd_camera_up{camera="a"} 1.0' in text


def test_compose_mounts_what_there_is_and_where_its_configuration_looks_for_it() -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    bound = {}
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source, target, *_ = volume.split(":")
            if source.startswith("."):
                bound[target] = (ROOT / "deploy" / source).resolve()
    assert all(source.exists() for source in bound.values())
    example = (ROOT / "deploy" / "streamd.yaml").read_text()
    model = Path(example.partition("# model: {path: ")[2].partition("}")[0])
    assert bound[str(model.parent)] == ROOT / "deploy" / "models"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool (Debian: prometheus)")
def test_the_metrics_are_named_as_prometheus_wants_them(daemon: DaemonFactory, clip: Clip) -> None:
    running = daemon(f"cameras: [{{id: a, url: {clip.path}, loop: true}}]")
    running.wait_events(1)
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=running.get("/metrics").text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_dashboard_is_what_its_script_writes() -> None:
    from tools.make_dashboard import dashboard  # noqa: PLC0415  # a script

    assert json.loads(DASHBOARD.read_text()) == dashboard()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool (Debian: prometheus)")
def test_the_alerts_alert() -> None:
    for command in (("test", "rules", "alerts.test.yml"), ("check", "config", "prometheus.yml")):
        done = subprocess.run(
            ["promtool", *command], cwd=PROMETHEUS, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool (Debian: prometheus)")
@pytest.mark.parametrize(
    ("panel", "series", "found"),
    [
        (
            "Times offline by reason",
            'streamd_camera_failures_total{camera="a", reason="ended"}',
            '{reason="ended"}',
        ),
        (
            "Workers lost",
            'streamd_worker_deaths_total{role="ingest", reason="hung"}',
            '{role="ingest", reason="hung"}',
        ),
    ],
)
def test_the_dashboard_shows_what_happens_for_the_first_time(
    panel: str, series: str, found: str, tmp_path: Path
) -> None:
    """Of such a counter there is no series before."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    (query,) = (p["targets"][0]["expr"] for p in panels if p["title"] == panel)
    looks = [(1, []), (4, [1]), (10, [0]), (16, [1])]
    settings = {
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": series, "values": "_x2 1x10 2x10"}],
                "promql_expr_test": [
                    {
                        "expr": f"round({query})",
                        "eval_time": f"{minute}m",
                        "exp_samples": [{"labels": found, "value": value} for value in values],
                    }
                    for minute, values in looks
                ],
            }
        ]
    }
    path = tmp_path / "panel.test.yml"
    path.write_text(yaml.safe_dump(settings))
    done = subprocess.run(
        ["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dockerfile_is_clean() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [str(hadolint), str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("lock", "extra"), [("cpu", ""), ("gpu", "tensorrt"), ("export", "export")]
)
def test_the_locks_have_all_that_is_asked_for(lock: str, extra: str) -> None:
    text = (ROOT / f"deploy/requirements-{lock}.txt").read_text()
    locked = {name.lower() for name in re.findall(r"^([A-Za-z0-9_.-]+)(?:\[.*\])?==", text, re.M)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["optional-dependencies"].get(extra, [])
    # streamd itself is in the other images.
    wanted = wanted if lock == "export" else [*wanted, *project["dependencies"]]
    names = {re.split(r"[^A-Za-z0-9_.-]", line)[0].lower() for line in wanted}
    # The gpu image's base brings TensorRT.
    assert names - {"tensorrt"} <= locked
    assert "://" not in text
    assert text.count("==") == len(re.findall(r"^\S+==\S+ \\\n    --hash=sha256:", text, re.M))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_the_unit_is_valid_and_exposes_little(tmp_path: Path) -> None:
    unit = tmp_path / "streamd.service"
    # A file that is there on every machine, instead of what `make install` puts in place.
    unit.write_text(UNIT.read_text().replace("/opt/streamd/.venv/bin/streamd", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.strip()) == (0, "")
    # 20 stands for 2.0.
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout.splitlines()[-1:]


def test_a_worker_that_is_killed_for_its_memory_does_not_end_the_service() -> None:
    """systemd's default, `stop`, ends a unit with the first of its processes that it happens to."""
    assert "OOMPolicy=continue" in UNIT.read_text().splitlines()


def test_install_and_uninstall_leave_what_is_the_users(tmp_path: Path) -> None:
    commands = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", "install", f"DESTDIR={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    # All but what takes a minute and the network: pip has its own tests.
    steps = [line for line in commands.splitlines() if "pip install" not in line]
    (tmp_path / "opt/streamd/.venv/bin").mkdir(parents=True)
    subprocess.run(
        ["sh", "-ec", "\n".join(steps)], cwd=ROOT, check=True, capture_output=True, umask=0o077
    )
    for path in (tmp_path / "opt/streamd").rglob("*"):
        assert path.stat().st_mode & 0o004, f"{path}: the service may not read it"
    config = tmp_path / "etc/streamd/streamd.yaml"
    secrets = tmp_path / "etc/streamd/secrets.env"
    assert secrets.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "etc/systemd/system/streamd.service").read_text() == UNIT.read_text()
    assert (tmp_path / "opt/streamd/engines/shapes.onnx").is_file()
    config.write_text("mine\n")
    subprocess.run(["sh", "-ec", "\n".join(steps)], cwd=ROOT, check=True, capture_output=True)
    assert config.read_text() == "mine\n"
    subprocess.run(["make", "uninstall", f"DESTDIR={tmp_path}"], cwd=ROOT, check=True)
    assert config.read_text() == "mine\n"
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(left) == sorted([config, secrets])


def test_the_shipped_configuration_of_the_service_is_valid(tmp_path: Path) -> None:
    text = (ROOT / "systemd" / "streamd.yaml").read_text()
    path = tmp_path / "streamd.yaml"
    path.write_text(text.replace("/opt/streamd", str(ROOT)))
    config = load_config(path, {})
    assert [camera.id for camera in config.cameras] == ["gate"]


def test_the_watchdog_is_fed_only_while_frames_are_inferred(
    daemon: DaemonFactory, clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(0.1)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        monkeypatch.setenv("WATCHDOG_USEC", "2000000")
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        running = daemon(f"cameras: [{{id: a, url: {clip.path}, loop: true, paced: true}}]")
        told: list[bytes] = []

        def listen() -> bool:
            try:
                told.append(manager.recv(4096))
            except TimeoutError:
                return False
            return True

        eventually(lambda: (listen(), b"READY=1" in told)[1], what="ready")
        running.wait_events(1)
        assert told[0] == b"EXTEND_TIMEOUT_USEC=60000000"  # a start may take as long as it lives
        told.clear()
        eventually(lambda: (listen(), told.count(b"WATCHDOG=1") >= 3)[1], what="it is fed")
        (inference,) = running.children("inference")
        os.kill(inference.pid, signal.SIGSTOP)
        hung_s = time.monotonic()
        while time.monotonic() - hung_s < 2:
            listen()
        told.clear()
        while time.monotonic() - hung_s < 6:
            listen()
        os.kill(inference.pid, signal.SIGCONT)
        assert b"WATCHDOG=1" not in told
        eventually(lambda: (listen(), b"WATCHDOG=1" in told)[1], what="it is fed again")
        assert running.stop() == 0
