"""The main job: cameras in, events out, every frame accounted for."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from streamd.demo.clips import Clip, write_clip
from streamd.demo.score import Score
from streamd.scenes import Scene
from streamd.testing.redis_server import RedisServer
from streamd.testing.rtsp_server import RtspServer

from .harness import DaemonFactory, balanced, eventually


def test_every_frame_of_a_file_is_published_once_and_in_order(
    daemon: DaemonFactory, clip: Clip
) -> None:
    running = daemon(
        f"publish: all\ncameras: [{{id: a, url: {clip.path}}}, {{id: b, url: {clip.path}}}]",
        "--until-done",
    )
    assert running.wait() == 0
    for camera in ("a", "b"):
        events = running.events(camera)
        assert [event.seq for event in events] == list(range(len(clip.truth)))
        assert len({event.id for event in events}) == len(events)
        assert all(second.ts > first.ts for first, second in pairwise(events))
        assert {event.ts_source for event in events} == {"pts"}
    assert [s for s in running.status() if s[0] == "a"] == [("a", "online", ""), ("a", "done", "")]
    (stopped,) = running.logged("stopped")
    assert balanced(stopped["frames"])
    assert stopped["frames"]["in_flight"] == 0
    assert stopped["frames"]["inferred"] == 2 * len(clip.truth)


def test_the_log_goes_into_a_file_as_well_from_every_process(
    daemon: DaemonFactory, clip: Clip, tmp_path: Path
) -> None:
    folder = tmp_path / "logs"
    running = daemon(
        f"log: {{file: {folder}/streamd.jsonl, max_mb: 0.001, kept: 100}}\n"
        f"cameras: [{{id: a, url: {clip.path}}}, {{id: b, url: {clip.path}}}]",
        "--until-done",
    )
    assert running.wait() == 0
    files = list(folder.iterdir())
    assert len(files) > 1
    written = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    for event in ("starting", "camera_done", "engine_ready", "stopped"):
        (count,) = {len(running.logged(event)), sum(line["event"] == event for line in written)}
        assert count > 0
    (ready,) = [line for line in written if line["event"] == "engine_ready"]
    assert ready["worker"].startswith("infer")
    assert datetime.fromisoformat(ready["timestamp"]).tzinfo is UTC


def test_an_ipv6_address_is_told_as_a_url(daemon: DaemonFactory, clip: Clip) -> None:
    settings = f"cameras: [{{id: a, url: {clip.path}, loop: true}}]"
    running = daemon(settings, http_settings='{host: "::1", port: 0}')
    assert running.get("/healthz").status_code == 200


def test_the_shipped_model_sees_what_was_drawn(daemon: DaemonFactory, clip: Clip) -> None:
    running = daemon(
        f"model: {{confidence: 0.4}}\npublish: all\ncameras: [{{id: a, url: {clip.path}}}]",
        "--until-done",
    )
    assert running.wait() == 0
    score = Score()
    for event in running.events():
        assert (event.data.width, event.data.height) == (clip.width, clip.height)
        score.add(event, clip)
    assert score.frames == len(clip.truth)
    assert score.precision >= 0.9
    assert score.recall >= 0.9


def test_cameras_of_every_aspect_are_seen_rightly_side_by_side(
    daemon: DaemonFactory, tmp_path: Path
) -> None:
    sizes = {"wide": (640, 360), "old": (640, 480), "square": (480, 480), "upright": (360, 640)}
    clips = {
        name: write_clip(tmp_path / f"{name}.mp4", Scene(2, width, height), 2.0)
        for name, (width, height) in sizes.items()
    }
    cameras = "".join(f"  - {{id: {name}, url: {c.path}}}\n" for name, c in clips.items())
    running = daemon(
        f"model: {{confidence: 0.4}}\npublish: all\ncameras:\n{cameras}", "--until-done"
    )
    assert running.wait() == 0
    engine = running.wait_for_log("engine_ready")
    assert engine["shapes"] == ["192x320", "256x320", "320x320", "320x192"]
    for name, clip in clips.items():
        score = Score()
        for event in running.events(name):
            score.add(event, clip)
        assert score.frames == len(clip.truth), name
        assert min(score.precision, score.recall) >= 0.8, name  # as much as at 320x320


def test_classes_and_fps_of_a_camera_are_kept(daemon: DaemonFactory, clip: Clip) -> None:
    label = clip.truth[0][0].label
    running = daemon(
        f"publish: all\ncameras: [{{id: a, url: {clip.path}, fps: 5, classes: [{label}]}}]",
        "--until-done",
    )
    assert running.wait() == 0
    events = running.events()
    assert [event.seq for event in events] == list(range(0, len(clip.truth), 3))
    assert {item.label for event in events for item in event.data.objects} <= {label}
    (stopped,) = running.logged("stopped")
    assert stopped["frames"]["rate_capped"] == len(clip.truth) - len(events)


def test_a_live_camera_is_read_and_told_of(
    daemon: DaemonFactory, rtsp_server: RtspServer, clip: Clip
) -> None:
    mount = rtsp_server.mount("/gate", clip.path, auth=("user", "p@ss"))
    running = daemon(
        f"publish: all\ncameras: [{{id: gate, url: '{mount.url_with_credentials()}'}}]"
    )
    running.wait_ready()
    camera = running.wait_state("gate", "online")
    assert (camera["codec"], camera["width"], camera["height"]) == ("h264", 640, 360)
    events = running.wait_events(20)
    assert {event.ts_source for event in events} == {"rtcp"}
    assert all(second.seq > first.seq for first, second in pairwise(events))
    assert "p@ss" not in str(running.log)
    assert "p%40ss" not in str(running.log) + running.get("/api/v1/cameras").text
    assert running.stop() == 0


def test_a_dropped_camera_comes_back(
    daemon: DaemonFactory, rtsp_server: RtspServer, clip: Clip
) -> None:
    mount = rtsp_server.mount("/gate", clip.path)
    running = daemon(f"publish: all\ncameras: [{{id: gate, url: '{mount.url}'}}]")
    running.wait_ready()
    running.wait_state("gate", "online")
    mount.kill_clients()
    running.wait_for_log("camera_offline", reason="ended")
    eventually(lambda: len(running.logged("camera_online")) == 2, what="online again")
    told = [("gate", "online", ""), ("gate", "offline", "ended"), ("gate", "online", "")]
    eventually(lambda: running.status() == told, what="the status events")
    ids = [event.id for event in running.wait_events(30)]
    assert len(set(ids)) == len(ids)


def test_bad_cameras_say_why_and_leave_the_good_one_alone(
    daemon: DaemonFactory, rtsp_server: RtspServer, clip: Clip, tmp_path: Path
) -> None:
    good = rtsp_server.mount("/good", clip.path)
    locked = rtsp_server.mount("/locked", clip.path, auth=("user", "right"))
    silent = rtsp_server.mount("/silent", clip.path)
    silent.silent = True
    stalling = rtsp_server.mount("/stalling", clip.path)
    text = tmp_path / "notes.mp4"
    text.write_text("these are notes, no video\n" * 50)
    truncated = tmp_path / "truncated.mp4"
    truncated.write_bytes(clip.path.read_bytes()[:20_000])
    running = daemon(f"""
publish: all
cameras:
  - {{id: good, url: "{good.url}"}}
  - {{id: locked, url: "{locked.url.replace("//", "//user:wrong@")}"}}
  - {{id: nowhere, url: "{good.url}/nowhere"}}
  - {{id: refused, url: "rtsp://127.0.0.1:1/x"}}
  - {{id: silent, url: "{silent.url}", open_timeout_s: 1}}
  - {{id: stalling, url: "{stalling.url}", stall_timeout_s: 1}}
  - {{id: text, url: "{text}"}}
  - {{id: truncated, url: "{truncated}"}}
  - {{id: missing, url: "{tmp_path}/missing.mp4"}}
""")
    running.wait_ready()
    running.wait_state("stalling", "online")
    stalling.stall = True
    for camera, reason in {
        "locked": "auth_failed",
        "nowhere": "not_found",
        "refused": "refused",
        "silent": "timeout",
        "stalling": "stalled",
        "text": "invalid_data",
        "truncated": "invalid_data",
        "missing": "not_found",
    }.items():
        running.wait_for_log("camera_offline", camera=camera, reason=reason)
    before = running.cameras()["good"]["frames"]["inferred"]
    eventually(lambda: running.cameras()["good"]["frames"]["inferred"] > before + 10)
    assert not running.logged("camera_offline", camera="good")
    assert len(locked.attempts) == 1


def test_the_ledger_adds_up_under_overload(
    daemon: DaemonFactory, rtsp_server: RtspServer, clip: Clip
) -> None:
    mounts = [rtsp_server.mount(f"/{n}", clip.path) for n in range(6)]
    cameras = "\n".join(f"  - {{id: c{n}, url: '{m.url}'}}" for n, m in enumerate(mounts))
    # A network eight times as large as the shipped model's own input cannot keep up with 90 fps.
    running = daemon(
        f"model: {{imgsz: 896, batch_size: 2, precision: fp32}}\npublish: all\n"
        f"cameras:\n{cameras}\n  - {{id: file, url: {clip.path}, loop: true}}"
    )
    running.wait_ready()

    def overloaded() -> bool:
        seen = running.cameras().values()
        assert all(balanced(camera["frames"]) for camera in seen)
        live = [camera for camera in seen if camera["id"] != "file"]
        return all(c["frames"]["overwritten"] > 20 and c["frames"]["inferred"] > 5 for c in live)

    eventually(overloaded, what="every live camera overwritten and inferred")
    counts = running.cameras()
    assert counts["file"]["frames"]["overwritten"] == 0
    inferred = [counts[f"c{n}"]["frames"]["inferred"] for n in range(6)]
    assert max(inferred) <= 1.5 * min(inferred) + 5
    assert running.stop() == 0
    (stopped,) = running.logged("stopped")
    assert balanced(stopped["frames"])
    assert stopped["frames"]["in_flight"] == 0


def test_sigterm_publishes_what_was_read_and_leaves_nothing(
    daemon: DaemonFactory, clip: Clip
) -> None:
    running = daemon(f"publish: all\ncameras: [{{id: a, url: {clip.path}, loop: true}}]")
    running.wait_events(20)
    family = [psutil.Process(running.process.pid), *running.children()]
    began = running.process.pid
    assert running.stop() == 0
    (stopped,) = running.logged("stopped")
    assert stopped["frames"]["in_flight"] == 0
    assert stopped["frames"]["inferred"] == len(running.events())
    assert not any(process.is_running() for process in family), began


@pytest.mark.parametrize(
    "again",
    [
        pytest.param(signal.SIGHUP, id="a reload"),
        pytest.param(signal.SIGTERM, id="the same, which a wrapper passes on"),
    ],
)
def test_another_signal_right_after_the_one_that_ends_it_ends_nothing_early(
    daemon: DaemonFactory, clip: Clip, again: signal.Signals
) -> None:
    running = daemon(f"publish: all\ncameras: [{{id: a, url: {clip.path}, loop: true}}]")
    running.wait_events(20)
    running.process.send_signal(signal.SIGTERM)
    running.wait_for_log("stopping")
    running.process.send_signal(again)
    assert running.process.wait(20) == 0
    assert not running.logged("worker_killed")
    frames = running.wait_for_log("stopped")["frames"]
    assert frames["inferred"] == len(running.events())
    assert frames["in_flight"] == 0


def test_files_that_are_read_and_not_inferred_are_no_success(
    daemon: DaemonFactory, clip: Clip
) -> None:
    few = f"id: a, url: {clip.path}"
    running = daemon(
        f"publish: all\ningest: {{slots_per_camera: 80}}\ncameras: [{{{few}}}]", "--until-done"
    )
    inference = eventually(lambda: running.children("inference"))[0]
    inference.suspend()
    running.wait_for_log("camera_done")
    # It waits for as long as that may take, until it is told to end.
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(20) == 1
    (killed,) = running.logged("worker_killed")
    assert killed["worker"] == "inference-0"


def test_what_waited_when_inference_died_is_inferred_before_the_end(
    daemon: DaemonFactory, clip: Clip
) -> None:
    slots, file = "slots_per_camera: 80", f"url: {clip.path}, paced: true"
    running = daemon(
        f"publish: all\ningest: {{{slots}}}\ncameras: [{{id: a, {file}}}]", "--until-done"
    )
    inference = eventually(lambda: running.children("inference"))[0]
    inference.suspend()
    running.wait_until(lambda: running.cameras()["a"]["frames"]["captured"] > 5, 60, "read some")
    inference.kill()
    assert running.wait() == 0
    frames = running.wait_for_log("stopped")["frames"]
    assert frames["inferred"] == frames["captured"] == len(running.events())


@pytest.mark.parametrize("again_after_s", [None, 0.0004, 0.01])
def test_a_signal_before_anything_runs_ends_the_wait_for_redis(
    tmp_path: Path, again_after_s: float | None
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = tmp_path / "config.yaml"
        config.write_text(
            f"redis: {{url: 'redis://127.0.0.1:{silent.getsockname()[1]}', timeout_s: 60}}\n"
            "http: {port: 0}\nlog: {format: json}\n"
            "cameras: [{id: a, url: 'rtsp://127.0.0.1:1/x'}]\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "streamd", "run", str(config)], stderr=subprocess.PIPE, text=True
        )
        with silent.accept()[0]:
            process.send_signal(signal.SIGTERM)
            if again_after_s is not None:
                time.sleep(again_after_s)
                process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=20)
    assert process.returncode == 0
    assert json.loads(said)["event"] == "stopping"


def test_ctrl_c_while_workers_start_is_no_traceback(daemon: DaemonFactory, clip: Clip) -> None:
    running = daemon(f"cameras: [{{id: a, url: {clip.path}, loop: true}}]")
    group = psutil.Process(running.process.pid)
    eventually(lambda: sum("spawn_main" in " ".join(p.cmdline()) for p in group.children()) == 2)
    os.killpg(running.process.pid, signal.SIGINT)
    assert running.wait() == 0
    assert not running.logged("plain")
    assert running.logged("stopped")


def test_a_killed_inference_worker_is_replaced_and_its_frames_are_booked(
    daemon: DaemonFactory, clip: Clip
) -> None:
    running = daemon(f"publish: all\ncameras: [{{id: a, url: {clip.path}, loop: true}}]")
    running.wait_events(20)
    running.children("inference")[0].send_signal(signal.SIGKILL)
    death = running.wait_for_log("worker_died", worker="inference-0")
    assert death["reason"] == "sigkill"
    before = len(running.events())
    running.wait_events(before + 20)
    frames = running.cameras()["a"]["frames"]
    assert balanced(frames)
    assert frames["lost_inference"] == death["frames_lost"]
    events = running.events()
    assert all(second.seq > first.seq for first, second in pairwise(events))
    assert len({event.id for event in events}) == len(events)
    assert running.stop() == 0


def test_a_killed_ingest_worker_takes_only_its_own_cameras(
    daemon: DaemonFactory, clip: Clip
) -> None:
    running = daemon(
        "ingest: {workers: 2}\npublish: all\ncameras:\n"
        f"  - {{id: a, url: {clip.path}, loop: true, paced: true}}\n"
        f"  - {{id: b, url: {clip.path}, loop: true, paced: true}}\n"
    )
    running.wait_events(5, "a")
    running.wait_events(5, "b")
    running.children("ingest-0")[0].send_signal(signal.SIGKILL)
    running.wait_for_log("worker_died", worker="ingest-0")
    running.wait_for_log("worker_restarted", worker="ingest-0")
    eventually(lambda: len(running.logged("camera_online", camera="a")) == 2)
    before = len(running.events("a"))
    running.wait_events(before + 5, "a")
    assert len(running.logged("camera_online", camera="b")) == 1
    assert all(balanced(camera["frames"]) for camera in running.cameras().values())
    ids = [event.id for event in running.events("a")]
    assert len(set(ids)) == len(ids)


def test_a_recording_whose_reader_dies_goes_on_where_it_was(
    daemon: DaemonFactory, tmp_path: Path
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", Scene(2, 320, 180), 20.0)
    running = daemon(f"publish: all\ncameras: [{{id: a, url: {clip.path}}}]", "--until-done")

    def has_resumed(times: int) -> bool:
        return len(running.logged("recording_resumed")) == times

    running.wait_events(5)
    inference = running.children("inference")[0]
    inference.suspend()  # so that the recording cannot come to its end meanwhile
    for reader in (1, 2):
        running.children("ingest-0")[0].send_signal(signal.SIGKILL)
        eventually(partial(has_resumed, reader))
    inference.resume()
    assert running.wait() == 0
    events = running.events()
    expected = [pytest.approx(at / clip.fps, abs=0.002) for at in range(len(clip.truth))]
    assert [event.data.pts for event in events] == expected
    assert [event.seq for event in events] == list(range(len(events)))
    sessions = [event.id.split(":")[1] for event in events]
    assert sessions == sorted(sessions)
    assert sessions[0] < sessions[-1]
    # As if nothing had happened: each frame is dated by its place in the recording.
    steps_s = [(b.ts - a.ts) / 1000 for a, b in pairwise(events)]
    assert steps_s == [pytest.approx(1 / clip.fps, abs=0.01)] * len(steps_s)
    assert all(entry["frames_taken"] >= 5 for entry in running.logged("recording_resumed"))


def test_workers_die_with_their_supervisor(daemon: DaemonFactory, clip: Clip) -> None:
    running = daemon(f"cameras: [{{id: a, url: {clip.path}, loop: true}}]")
    running.wait_ready()
    workers = running.children()
    assert len(workers) == 2
    shared_before = set(Path("/dev/shm").iterdir())
    running.process.kill()
    running.process.wait()
    eventually(lambda: not any(worker.is_running() for worker in workers), 10, "workers end")
    assert not [p for p in set(Path("/dev/shm").iterdir()) - shared_before if "streamd" in p.name]


def test_http_tells_of_health_cameras_and_metrics(daemon: DaemonFactory, clip: Clip) -> None:
    running = daemon(f"publish: all\ncameras: [{{id: a, url: {clip.path}, loop: true}}]")
    assert running.get("/healthz").json()["status"] == "ok"
    early = running.get("/readyz")
    if early.status_code == 503:
        assert early.json()["missing"]
    running.wait_events(10)
    assert running.get("/readyz").status_code == 200
    assert running.get("/api/v1/cameras/a").json()["id"] == "a"
    assert running.get("/api/v1/cameras/z").status_code == 404
    families = {f.name: f for f in text_string_to_metric_families(running.get("/metrics").text)}
    frames = {
        sample.labels["outcome"]: sample.value
        for sample in families["streamd_frames"].samples
        if sample.labels["camera"] == "a"
    }
    assert frames["inferred"] >= 10
    assert families["streamd_camera_up"].samples[0].value == 1
    assert families["streamd_ready"].samples[0].value == 1
    buckets = [s.value for s in families["streamd_slot_to_redis_seconds"].samples]
    assert buckets[-1] >= 10
    work = [
        *families["streamd_camera_cpu_seconds"].samples,
        *families["streamd_inference_cpu_seconds"].samples,
    ]
    assert {sample.labels["stage"] for sample in work if sample.value > 0} == {
        "decode",
        "scale",
        "copy",
        "batch",
        "gather",
        "postprocess",
        "publish",
    }


def test_events_wait_while_redis_is_away_at_the_start(
    daemon: DaemonFactory, redis_server: RedisServer, clip: Clip
) -> None:
    redis_server.stop()
    running = daemon(
        f"publish: all\ncameras: [{{id: a, url: {clip.path}, loop: true, paced: true}}]"
    )
    running.wait_for_log("redis_lost", worker="inference-0")
    missing = running.get("/readyz")
    assert missing.status_code == 503
    assert "redis" in missing.text
    redis_server.start()
    running.wait_for_log("redis_connected", worker="inference-0")
    events = running.wait_events(20)
    assert [event.seq for event in events[:20]] == list(range(20))
    assert running.cameras()["a"]["events_lost"] == 0


def test_events_go_on_in_order_after_redis_was_restarted(
    daemon: DaemonFactory, redis_server: RedisServer, clip: Clip
) -> None:
    running = daemon(
        f"publish: all\ncameras: [{{id: a, url: {clip.path}, loop: true, paced: true}}]"
    )
    before = running.wait_events(10)[-1].seq
    redis_server.kill()
    running.wait_for_log("redis_lost", worker="inference-0")
    redis_server.start()
    after = running.wait_events(20)
    assert after[0].seq >= before
    assert [e.seq for e in after] == list(range(after[0].seq, after[0].seq + len(after)))


def test_a_picture_that_changes_its_size_goes_on(
    daemon: DaemonFactory, rtsp_server: RtspServer, clip: Clip, tmp_path: Path
) -> None:
    mount = rtsp_server.mount("/gate", clip.path)
    smaller = write_clip(tmp_path / "small.mp4", Scene(3, 320, 240), 2.0)
    running = daemon(f"publish: all\ncameras: [{{id: gate, url: '{mount.url}'}}]")
    running.wait_events(5)
    mount.replace(str(smaller.path))
    eventually(lambda: (320, 240) in {(e.data.width, e.data.height) for e in running.events()})
    assert not running.logged("camera_offline")


def test_a_camera_that_comes_back_with_another_codec(
    daemon: DaemonFactory, rtsp_server: RtspServer, clip: Clip, tmp_path: Path
) -> None:
    hevc = write_clip(tmp_path / "hevc.mp4", Scene(3, 320, 240), 2.0, "hevc")
    mount = rtsp_server.mount("/gate", clip.path)
    running = daemon(f"publish: all\ncameras: [{{id: gate, url: '{mount.url}'}}]")
    running.wait_events(5)
    rtsp_server.unmount("/gate")
    running.wait_for_log("camera_offline", camera="gate")
    rtsp_server.mount("/gate", hevc.path)
    running.wait_for_log("camera_online", camera="gate", codec="hevc")
    eventually(lambda: (320, 240) in {(e.data.width, e.data.height) for e in running.events()})


def test_idle_cameras_do_not_hide_that_redis_is_away(
    daemon: DaemonFactory, redis_server: RedisServer, clip: Clip
) -> None:
    running = daemon(f"cameras: [{{id: a, url: {clip.path}}}]")
    running.wait_state("a", "done")
    running.wait_ready()
    redis_server.kill()
    eventually(lambda: running.get("/readyz").status_code == 503, what="not ready")
    assert running.stop() == 0
