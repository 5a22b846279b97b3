"""check --connect, probe, tail, schema and demo, as a user types them."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import redis

from streamd.cli.main import main
from streamd.config import RedisConfig
from streamd.demo.clips import Clip
from streamd.redis_client import connect
from streamd.testing.redis_server import RedisServer
from streamd.testing.rtsp_server import RtspServer

from .harness import STREAM, DaemonFactory, a_cluster, event, eventually
from .test_bad_input import streamd


def test_check_connect_tries_everything(
    tmp_path: Path, redis_server: RedisServer, rtsp_server: RtspServer, clip: Clip
) -> None:
    mount = rtsp_server.mount("/gate", clip.path)
    path = tmp_path / "config.yaml"
    text = (
        f"redis: {{url: '{redis_server.url}'}}\ncameras:\n"
        f"  - {{id: gate, url: '{mount.url}'}}\n  - {{id: gone, url: '{mount.url}/gone'}}\n"
    )
    path.write_text(text)
    assert streamd("check", str(path))[0] == 0
    code, _, errors = streamd("check", str(path), "--connect")
    assert code == 2
    (error,) = (line for line in errors if line.startswith(str(path)))  # others tell of a build
    assert error.startswith(f"{path}:4: cameras[1].url: not_found")
    path.write_text(text.replace("/gone'", "'").replace(f":{redis_server.port}/", ":1/"))
    code, _, errors = streamd("check", str(path), "--connect")
    assert code == 2
    (error,) = errors
    assert error.startswith(f"{path}:1: redis.url: ")


def test_probe_tells_what_a_camera_is(rtsp_server: RtspServer, clip: Clip) -> None:
    mount = rtsp_server.mount("/gate", clip.path)
    mount.catch_up = True  # what is late keeps its time, as a camera's would
    sent_s: list[float] = []
    mount.on_frame = lambda *_: sent_s.append(time.monotonic())
    code, out, _ = streamd("probe", mount.url, "--json", "--seconds", "6", "--decode", "cpu")
    assert code == 0
    seen = json.loads(out)
    assert (seen["codec"], seen["width"], seen["height"]) == ("h264", clip.width, clip.height)
    assert seen["live"] is True
    sent_fps = (len(sent_s) - 1) / (sent_s[-1] - sent_s[0])
    assert seen["delivered_fps"] == pytest.approx(sent_fps, rel=0.2)
    assert seen["keyframe_interval_s"] == pytest.approx(1.0, rel=0.2)
    assert seen["clock"] == "rtcp"
    assert seen["decode"] == "cpu"
    assert abs(seen["camera_clock_offset_s"]) < 5


def test_tail_prints_what_is_published(daemon: DaemonFactory, clip: Clip) -> None:
    running = daemon(
        f"publish: all\ncameras: [{{id: a, url: {clip.path}}}, {{id: b, url: {clip.path}}}]",
        "--until-done",
    )
    running.wait()
    arguments = ("tail", str(running.config), "--from-start", "--camera", "b", "--count", "5")
    code, out, _ = streamd(*arguments, "--json")
    assert code == 0
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["seq"] for event in events] == [0, 1, 2, 3, 4]
    assert {event["camera"] for event in events} == {"b"}
    assert len(streamd(*arguments)[1].splitlines()) == 5


class Tail:
    """`tail --json` of cameras a and b: the `seq` of each event and the lines of stderr."""

    def __init__(self) -> None:
        self.seqs: list[int] = []
        self.errors: list[str] = []

    def read_events(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.seqs.append(json.loads(line)["seq"])

    def read_errors(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.errors.append(line.rstrip())


@contextmanager
def tailing(config: Path, settings: str, *options: str) -> Iterator[Tail]:
    config.write_text(f"redis: {{{settings}}}\ncameras: [{{id: a, url: x}}, {{id: b, url: y}}]\n")
    command = [sys.executable, "-m", "streamd", "tail", str(config), "--json", *options]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        tail = Tail()
        readers = [
            threading.Thread(target=tail.read_events, args=(process.stdout,)),
            threading.Thread(target=tail.read_errors, args=(process.stderr,)),
        ]
        for reader in readers:
            reader.start()
        try:
            yield tail
        finally:
            process.kill()
            for reader in readers:
                reader.join()


@pytest.mark.parametrize("from_start", [True, False])
def test_tail_goes_on_where_it_was_when_redis_is_back(
    durable_redis: RedisServer, tmp_path: Path, from_start: bool
) -> None:
    writer: Any = redis.Redis.from_url(durable_redis.url, retry=None)
    writer.xadd(STREAM, event(1, "a").fields())
    options = ["--from-start"] if from_start else []
    url = f"url: '{durable_redis.url}'"
    with tailing(tmp_path / "config.yaml", url, *options) as tail:
        eventually(lambda: any(each["cmd"] == "xread" for each in writer.client_list()))
        writer.xadd(STREAM, event(2, "a").fields())
        eventually(lambda: 2 in tail.seqs)
        durable_redis.kill()
        eventually(lambda: tail.errors)
        durable_redis.start()
        writer.close()
        writer.xadd(STREAM, event(3, "a").fields())
        eventually(lambda: 3 in tail.seqs)
        writer.close()
    assert tail.seqs == ([1, 2, 3] if from_start else [2, 3])
    (error,) = tail.errors
    assert error.startswith("redis: ")
    assert error.endswith("; trying again")


def test_tail_skips_what_is_no_event(redis_server: RedisServer, tmp_path: Path) -> None:
    with redis.Redis.from_url(redis_server.url) as writer:
        writer.xadd(STREAM, {"hello": "world"})
        writer.xadd(STREAM, event(7, "a").fields())
    url = f"url: '{redis_server.url}'"
    with tailing(tmp_path / "c.yaml", url, "--from-start") as tail:
        eventually(lambda: tail.seqs == [7])
    (error,) = tail.errors
    assert "is skipped" in error


def test_tail_prints_labels_as_they_are_in_any_locale(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    labels = ("sign [stop]", "[/]", "é")
    with redis.Redis.from_url(redis_server.url) as writer:
        writer.xadd(STREAM, event(1, "a", *labels).fields())
    config = tmp_path / "c.yaml"
    config.write_text(f"redis: {{url: '{redis_server.url}'}}\ncameras: [{{id: a, url: x}}]\n")
    command = [sys.executable, "-m", "streamd", "tail", str(config), "--from-start", "--count", "1"]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    line, as_json = (
        subprocess.run([*command, *more], env=ascii_only, capture_output=True, check=True).stdout
        for more in ((), ("--json",))
    )
    assert line.endswith(b" sign [stop] 0.90, [/] 0.90, \\xe9 0.90\n")
    objects = json.loads(as_json.decode())["data"]["objects"]
    assert tuple(each["label"] for each in objects) == labels


def test_tail_of_a_camera_that_was_added_over_http(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    with redis.Redis.from_url(redis_server.url) as writer:
        writer.xadd(STREAM, event(1, "a").fields())
        writer.xadd(STREAM, event(2, "late").fields())
    options = ("--from-start", "--camera", "late")
    path = tmp_path / "c.yaml"
    with tailing(path, f"url: '{redis_server.url}'", *options) as tail:
        eventually(lambda: tail.seqs == [2])
    note = f"{path}: has no camera 'late', but a, b; waiting for one added over HTTP"
    assert tail.errors == [note]


def test_tail_in_a_cluster_with_a_stream_for_each_camera(tmp_path: Path) -> None:
    with a_cluster() as url:
        writer: Any = connect(RedisConfig(url=url))
        writer.xadd("det:a", event(1, "a").fields())
        writer.xadd("det:b", event(2, "b").fields())
        settings = f"url: '{url}', stream: 'det:{{camera}}'"
        with tailing(tmp_path / "c.yaml", settings, "--from-start") as tail:
            eventually(lambda: sorted(tail.seqs) == [1, 2])
            writer.xadd("det:b", event(3, "b").fields())
            eventually(lambda: tail.seqs[-1] == 3)
        writer.close()
    assert not tail.errors


def test_tail_ends_where_the_password_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    with RedisServer(password="right") as server:
        url = server.url.replace("right", "wrong")
        path.write_text(f"redis: {{url: '{url}'}}\ncameras: [{{id: a, url: x}}]\n")
        code, _, errors = streamd("tail", str(path))
    assert code == 2
    (error,) = errors
    assert error.startswith(f"redis.url: redis://***@127.0.0.1:{server.port}/0: refused: ")


def test_schemas_are_json(tmp_path: Path) -> None:
    config = json.loads(streamd("schema")[1])
    assert "cameras" in config["properties"]
    events = json.loads(streamd("schema", "events")[1])
    assert set(events["$defs"]["Event"]["properties"]) == {
        "v", "id", "camera", "seq", "ts", "ts_source", "n", "data",
    }  # fmt: skip


def test_the_demo_sees_what_it_draws() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "streamd", "demo", "--seconds", "8"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    found = re.search(r"precision (\d\.\d+), recall (\d\.\d+)", done.stdout)
    assert found, done.stdout
    assert float(found[1]) >= 0.9
    assert float(found[2]) >= 0.9
    assert "from 4 cameras" in done.stdout


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("demo --redis http://:q7@x", "--redis: 'http://***@x': scheme 'http' is none of redis://"),
        ("demo --redis :q7@x", "--redis: '***@x': scheme "),
        ("demo --redis redis://:q7@127.0.0.1:1", "--redis: redis://***@127.0.0.1:1: Error 111"),
        ("demo --source ftp://u:q7@x", "--source: 'ftp://***@x': scheme 'ftp' is none of rtsp://"),
        ("demo --source none.mp4", "--source: no such file: none.mp4"),
        ("demo --model none.onnx", "none.onnx: no such file"),
        (
            "bench --redis http://:q7@x",
            "--redis: 'http://***@x': scheme 'http' is none of redis://",
        ),
        ("bench --redis redis://:q7@127.0.0.1:1", "--redis: redis://***@127.0.0.1:1: Error 111"),
        (f"bench --source {__file__}", f"--source {__file__}: Invalid data found"),
        ("build none.onnx --output=", "--output: '': string should have at least 1 character"),
        ("probe rtmp://u:q7@x", "URL: 'rtmp://***@x': scheme 'rtmp' is none of rtsp://"),
    ],
)
def test_what_cannot_be_used_is_one_line_at_once(command: str, line: str) -> None:
    code, out, errors = streamd(*command.split())
    assert (code, out) == (2, "")
    (error,) = errors
    assert error.startswith(line)
    assert "q7" not in error


def test_bench_takes_a_checkpoint_for_one(tmp_path: Path) -> None:
    checkpoint = tmp_path / "odd.pt"
    checkpoint.write_bytes(b"no archive")
    code, _, errors = streamd("bench", "--model", str(checkpoint))
    assert (code, errors) == (2, [f"{checkpoint}: is no checkpoint of PyTorch"])


def test_probe_of_nothing() -> None:
    code, _, errors = streamd("probe", "")
    assert (code, errors) == (2, ["URL: '': string should have at least 1 character"])


def test_the_daemon_needs_no_standard_streams(
    redis_server: RedisServer, clip: Clip, tmp_path: Path
) -> None:
    log = tmp_path / "streamd.jsonl"
    config = tmp_path / "streamd.yaml"
    config.write_text(
        f"redis: {{url: '{redis_server.url}'}}\nhttp: {{port: 0}}\nlog: {{file: {log}}}\n"
        f"cameras: [{{id: clip, url: {clip.path}}}]\n"
    )
    without = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
    command = [sys.executable, "-m", "streamd", "run", "--until-done", str(config)]
    assert subprocess.run([*without, *command], check=False, timeout=120).returncode == 0
    assert json.loads(log.read_text().splitlines()[-1])["event"] == "stopped"


def test_modules_beside_the_configuration_are_not_taken_for_pythons_own(
    redis_server: RedisServer, clip: Clip, tmp_path: Path
) -> None:
    for name in ("threading", "json"):
        (tmp_path / f"{name}.py").write_text("raise ImportError(__file__)")
    config = tmp_path / "streamd.yaml"
    config.write_text(
        f"redis: {{url: '{redis_server.url}'}}\nhttp: {{port: 0}}\n"
        "model: {batch_size: 1, precision: fp32, imgsz: 320}\n"
        f"cameras: [{{id: clip, url: {clip.path}}}]\n"
    )
    # As the installed command is, which begins with its own folder on the path.
    begin = "import sys; sys.path.remove(''); from streamd.__main__ import main; main()"
    command = [sys.executable, "-c", begin, "run", "--until-done", str(config)]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_what_this_user_may_not_open_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def app(**_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "closed/plot.png")

    monkeypatch.setattr(import_module("streamd.cli.main"), "app", app)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "closed/plot.png: Permission denied\n"


def test_ctrl_c_while_a_command_is_imported_is_no_traceback() -> None:
    program = """
import signal, sys
class WhileImported:
    def find_spec(self, name, *_):
        if name == "streamd.cli.options":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, WhileImported())
from streamd.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


@pytest.mark.parametrize("command", ["demo", "bench"])
def test_a_redis_that_refuses_the_password_is_told_before_anything_is_drawn(command: str) -> None:
    with RedisServer(password="right") as server:
        code, out, errors = streamd(command, "--redis", server.url.replace("right", "wrong"))
    assert (code, out) == (2, "")
    (error,) = errors
    assert error.startswith(f"--redis: redis://***@127.0.0.1:{server.port}/0: refused: ")


def test_the_demo_with_a_source_and_a_redis_of_ones_own(clip: Clip) -> None:
    with RedisServer(password="q7secret") as server:
        options = ("--source", str(clip.path), "--redis", server.url, "--seconds", "1")
        code, out, errors = streamd("demo", *options)
    assert (code, errors) == (0, [])
    shown = server.url.replace(":q7secret", "***")
    assert out.startswith(f"Starting 1 camera, Redis at {shown} ...\n")
    assert "events from 1 cameras." not in out


def test_the_demo_tells_why_a_source_gives_nothing(rtsp_server: RtspServer) -> None:
    url = f"rtsp://127.0.0.1:{rtsp_server.port}/gone"
    command = [sys.executable, "-m", "streamd", "demo", "--source", url, "--seconds", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert any(line.startswith("camera-1: not_found: ") for line in process.stdout)
        process.send_signal(signal.SIGTERM)


def test_bench_of_a_recording_asks_for_no_more_frames_than_it_has(clip: Clip) -> None:
    options = ("--source", str(clip.path), "--max-cameras", "1", "--seconds", "2")
    _, out, _ = streamd("bench", *options, "--fps", "120", "--json")
    found = json.loads(out)
    assert f"of {clip.path.name} at {clip.fps:g} fps" in found["answer"]
    assert found["trials"][0]["wanted_fps"] == pytest.approx(clip.fps)


def test_bench_says_how_many_cameras_fit() -> None:
    options = ("--camera", "360p10", "--fps", "5", "--max-cameras", "1", "--seconds", "2")
    code, out, _ = streamd("bench", *options, "--target-latency-ms", "60000", "--json")
    found = json.loads(out)
    (trial,) = found["trials"]
    # Other tests run beside it, and may well cost it some frames.
    assert code == (0 if trial["meets"] else 1)
    assert "of 360p10 at 5 fps" in found["answer"]
    assert trial["fps"] > 3
    assert 0 < trial["p50_ms"] <= trial["p99_ms"] < 60_000
    assert all(0 <= share <= 1 for share in trial["cpu"].values())
    assert trial["cpu"]["infer"] > 0
    assert trial["cpu"]["decode"] > 0
    assert trial["sent"] < 1.8  # not each frame once for being captured and once for its outcome
    assert streamd("bench", "--camera", "big", "--fps", "all")[2] == [
        "--camera big: no kind of camera; such are 1080p25, 720p, 4k15, 640x480@10"
    ]
    code, _, errors = streamd("bench", "--camera", "big")
    assert (code, len(errors)) == (2, 1)


@pytest.mark.parametrize("fps", ["none", "0", "-1"])
def test_bench_of_no_rate(fps: str) -> None:
    code, _, errors = streamd("bench", "--fps", fps)
    assert code == 2
    (error,) = errors
    assert error.startswith(f"--fps: '{fps}': ")


@pytest.mark.parametrize("command", ["bench", "demo"])
def test_what_is_ended_by_a_signal_leaves_no_files(tmp_path: Path, command: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "streamd", command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    eventually(lambda: list(tmp_path.glob(f"streamd-{command}-*/*.mp4")))
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())
