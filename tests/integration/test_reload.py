"""The file changes while the service runs: exactly the cameras that changed are touched."""

import json
import signal
from pathlib import Path

import httpx
import onnx
import pytest

from streamd.demo.clips import Clip, write_clip
from streamd.engines.model_file import inspect_model
from streamd.scenes import Scene
from streamd.testing.rtsp_server import RtspServer

from .harness import Daemon, DaemonFactory, balanced, eventually

SHIPPED = Path(__file__).parents[2] / "engines" / "shapes.onnx"


def cameras(*lines: str) -> str:
    return "publish: all\ningest: {workers: 2}\ncameras:\n" + "".join(
        f"  - {{{x}}}\n" for x in lines
    )


def rewrite(running: Daemon, settings: str) -> None:
    """Changes the file and sends SIGHUP."""
    head = running.config.read_text().split("publish:")[0]
    running.config.write_text(head + settings)
    running.process.send_signal(signal.SIGHUP)


def sessions(running: Daemon, camera: str) -> list[str]:
    """The sessions of a camera, in the order of their events."""
    return list(dict.fromkeys(event.id.split(":")[1] for event in running.events(camera)))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return write_clip(tmp_path_factory.mktemp("clips") / "small.mp4", Scene(3, 320, 240), 2.0)


def test_only_what_changed_is_touched_and_no_frame_is_lost(
    daemon: DaemonFactory, rtsp_server: RtspServer, clip: Clip, small: Clip
) -> None:
    gate = rtsp_server.mount("/gate", clip.path)
    yard = rtsp_server.mount("/yard", small.path)
    file = f"id: file, url: {clip.path}, loop: true, paced: true"
    running = daemon(cameras(f"id: gate, url: '{gate.url}'", file, f"id: old, url: '{yard.url}'"))
    running.wait_ready()
    for camera in ("gate", "file", "old"):
        running.wait_events(5, camera)
    workers = {child.pid for child in running.children()}

    file = f"id: file, url: {small.path}, loop: true, paced: true"
    rewrite(running, cameras(f"id: gate, url: '{gate.url}'", file, f"id: new, url: '{yard.url}'"))
    reloaded = running.wait_for_log("reloaded")
    assert reloaded["started"] == ["new"]
    assert reloaded["stopped"] == ["old"]
    assert reloaded["restarted"] == ["file"]
    running.wait_events(5, "new")
    eventually(lambda: (running.events("file")[-1].data.width, 240) == (320, 240))
    assert set(running.cameras()) == {"gate", "file", "new"}
    assert {child.pid for child in running.children()} == workers
    before = len(running.events("old"))
    running.wait_events(len(running.events("gate")) + 10, "gate")
    assert len(running.events("old")) == before
    assert running.stop() == 0
    assert [len(sessions(running, c)) for c in ("gate", "old", "file", "new")] == [1, 1, 2, 1]
    for camera in ("gate", "old", "file", "new"):
        by_session = [(e.id.split(":")[1], e.seq) for e in running.events(camera)]
        assert by_session == sorted(by_session)
    frames = running.wait_for_log("stopped")["frames"]
    assert balanced(frames)
    assert frames["in_flight"] == 0
    # Each file frame that was read has its event: none is lost by the change.
    assert frames["inferred"] == len(running.events())


def test_an_invalid_file_changes_nothing_and_says_why(daemon: DaemonFactory, clip: Clip) -> None:
    good = f"id: a, url: {clip.path}, loop: true, paced: true"
    running = daemon(cameras(good))
    running.wait_events(3)
    rewrite(running, cameras(good, "id: b, urll: x"))
    failed = running.wait_for_log("reload_failed")
    assert f"{running.config}:7: cameras[1].urll: unknown key" in failed["reason"]
    rewrite(running, cameras(good, f"id: b, url: {clip.path}, classes: [unicorn]"))
    eventually(lambda: len(running.logged("reload_failed")) == 2)
    assert "'unicorn' is no label" in running.logged("reload_failed")[1]["reason"]
    running.wait_events(len(running.events()) + 10)
    assert len(sessions(running, "a")) == 1
    assert set(running.cameras()) == {"a"}


def test_cameras_come_and_go_many_times_without_a_trace(
    daemon: DaemonFactory, clip: Clip, tmp_path: Path
) -> None:
    file = f"url: {clip.path}, loop: true"
    running = daemon(cameras(f"id: a, {file}", f"id: b, {file}"))
    running.wait_events(3, "b")
    workers = running.children()
    assert len(workers) == 3

    def descriptors() -> list[int]:
        return [worker.num_fds() for worker in workers]

    for round_ in range(8):
        names = [f"{letter}{round_}" for letter in "cdefgh"]
        rewrite(running, cameras(f"id: a, {file}", *(f"id: {name}, {file}" for name in names)))
        running.wait_events(1, names[-1])
        if round_ == 1:
            used = descriptors()
    rewrite(running, cameras(f"id: a, {file}"))
    eventually(lambda: set(running.cameras()) == {"a"})
    assert not running.logged("camera_refused")
    assert all(now <= then for now, then in zip(descriptors(), used, strict=True))
    assert running.stop() == 0
    frames = running.wait_for_log("stopped")["frames"]
    assert frames["inferred"] == len(running.events())
    assert frames["in_flight"] == 0


def test_what_cannot_change_while_it_runs_is_told(daemon: DaemonFactory, clip: Clip) -> None:
    file = f"id: a, url: {clip.path}, loop: true, paced: true"
    running = daemon(cameras(file))
    running.wait_events(3)
    rewrite(running, cameras(file).replace("workers: 2", "workers: 1"))
    assert running.wait_for_log("reload_partial")["sections"] == ["ingest"]
    assert running.wait_for_log("reloaded")["restarted"] == []


TOKEN = "0123456789abcdef0123"


@pytest.fixture
def api(daemon: DaemonFactory, clip: Clip, tmp_path: Path) -> "Api":
    """A daemon with one camera, and a way to change others."""
    http = f"{{port: 0, token: {TOKEN}, camera_folders: ['{clip.path.parent}']}}"
    file = f"id: a, url: {clip.path}, loop: true, paced: true"
    running = daemon(cameras(file), http_settings=http)
    running.wait_events(2)
    return Api(running)


class Api:
    def __init__(self, running: Daemon) -> None:
        self.running = running

    def ask(self, method: str, camera: str, **body: object) -> httpx.Response:
        url = f"{self.running.http}/api/v1/cameras/{camera}"
        head = {"Authorization": f"Bearer {TOKEN}"}
        return httpx.request(method, url, headers=head, json=body or None, timeout=20)


def test_cameras_come_change_and_go_through_the_api(api: Api, clip: Clip) -> None:
    settings = {"url": str(clip.path), "loop": True, "paced": True}
    answer = api.ask("PUT", "new", **settings)
    assert (answer.status_code, answer.json()) == (200, {"camera": "new", "result": "started"})
    api.running.wait_events(3, "new")
    assert api.ask("PUT", "new", **settings).json()["result"] == "unchanged"
    assert api.ask("PUT", "new", **settings, fps=5).json()["result"] == "restarted"
    eventually(lambda: len(sessions(api.running, "new")) == 2)
    # It stays when the file is read again, and the file's cameras are not touched.
    api.running.process.send_signal(signal.SIGHUP)
    assert api.running.wait_for_log("reloaded")["stopped"] == []
    assert api.ask("PUT", "new", **settings, enabled=False).json()["result"] == "stopped"
    assert api.ask("GET", "new").status_code == 404
    assert api.ask("DELETE", "new").json()["result"] == "stopped"
    assert api.ask("DELETE", "new").status_code == 404
    assert api.ask("PUT", "new", **settings).json()["result"] == "started"
    assert api.ask("DELETE", "new").json()["result"] == "stopped"
    assert api.ask("GET", "new").status_code == 404
    assert len(sessions(api.running, "a")) == 1


def test_what_the_api_refuses_is_one_line(api: Api, clip: Clip) -> None:
    for body, status, said in (
        ({"url": "/etc/passwd"}, 403, "lies in none of http.camera_folders"),
        ({"url": "rtsp://ann:s3cret@h/s", "fps": 0}, 422, "fps"),
        ({"url": "rtsp://ann:s3cret@h/s", "fpss": 1}, 422, "fpss: unknown key, did you mean 'fp"),
        ({"url": "rtsp://ann:s3cret@h/s", "id": "good"}, 422, "another one than bad"),
        ({"url": "rtsp://ann:s3cret@h:99999/s"}, 422, "url: has no valid host or port"),
        ({"url": str(clip.path), "classes": ["unicorn"]}, 409, "'unicorn' is no label"),
    ):
        answer = api.ask("PUT", "bad", **body)
        assert answer.status_code == status
        assert said in answer.json()["detail"]
        assert "s3cret" not in answer.text
    assert api.ask("PUT", "sp ace", url=str(clip.path)).status_code == 422
    url = f"{api.running.http}/api/v1/cameras/x"
    assert httpx.put(url, json={"url": str(clip.path)}).status_code == 401
    form = httpx.put(url, data={"url": "x"}, headers={"Authorization": f"Bearer {TOKEN}"})
    assert (form.status_code, "application/json" in form.text) == (415, True)


def test_a_camera_whose_events_would_go_among_the_status_is_not_taken(
    daemon: DaemonFactory, clip: Clip
) -> None:
    running = daemon(
        cameras(f"id: a, url: {clip.path}, loop: true, paced: true"),
        http_settings=f"{{port: 0, token: {TOKEN}}}",
        redis_settings="stream: 'streamd:{camera}'",
    )
    answer = Api(running).ask("PUT", "status", url="rtsp://127.0.0.1:1/s")
    assert answer.status_code == 409
    assert "status: its events would go to redis.status_stream" in answer.json()["detail"]


def test_without_a_token_nothing_can_be_changed(daemon: DaemonFactory, clip: Clip) -> None:
    running = daemon(cameras(f"id: a, url: {clip.path}, loop: true, paced: true"))
    url = f"{running.http}/api/v1/cameras/a"
    assert "http.token is not set" in httpx.delete(url).json()["detail"]
    assert "http.token is not set" in httpx.put(url, json={"url": str(clip.path)}).json()["detail"]


def names(model: Path) -> list[str]:
    """The labels of the shipped model."""
    return list(inspect_model(str(model)).labels)


def with_labels(source: Path, target: Path, labels: list[str]) -> Path:
    """A copy of a model whose classes have other names."""
    proto = onnx.load(str(source))
    for entry in proto.metadata_props:
        if entry.key == "names":
            entry.value = str(dict(enumerate(labels)))
    onnx.save(proto, str(target))
    return target


def with_model(path: Path, *lines: str, **changed: object) -> str:
    """The engine of test_field_reports.py, built only once for both, or as `changed`."""
    model = {"path": str(path), "batch_size": 4, "imgsz": 320, "precision": "fp32"} | changed
    return cameras(*lines) + f"model: {json.dumps(model)}\n"


def test_a_new_model_takes_over_between_two_batches_and_no_frame_is_lost(
    daemon: DaemonFactory, clip: Clip, tmp_path: Path
) -> None:
    labels = [f"new-{label}" for label in names(SHIPPED)]
    second = with_labels(SHIPPED, tmp_path / "second.onnx", labels)
    file = f"url: {clip.path}, loop: true"
    both = f"id: a, {file}", f"id: b, {file}, paced: true"
    running = daemon(with_model(SHIPPED, *both))
    running.wait_ready()
    running.wait_events(20, "b")
    workers = {child.pid for child in running.children()}

    wanted = f"id: c, {file}, paced: true, classes: [{labels[0]}]"
    rewrite(running, with_model(second, *both, wanted))
    assert running.wait_for_log("reloaded")["started"] == ["c"]
    running.wait_for_log("model_swapped", model=str(second))
    running.wait_events(len(running.events("b")) + 20, "b")
    assert {child.pid for child in running.children()} == workers
    assert running.stop() == 0

    for camera in ("a", "b"):
        events = running.events(camera)
        assert [event.seq for event in events] == list(range(len(events)))
        models = [event.data.model for event in events]
        turn = models.index("second")
        assert turn > 0
        assert set(models[turn:]) == {"second"}
        for event in events:
            fresh = event.data.model == "second"
            assert all(found.label.startswith("new-") == fresh for found in event.data.objects)
    assert {x.label for e in running.events("c") for x in e.data.objects} <= {labels[0]}
    frames = running.wait_for_log("stopped")["frames"]
    assert balanced(frames)
    assert frames["inferred"] == len(running.events())
    assert frames["shed"] == frames["lost_inference"] == 0


def test_a_model_that_cannot_be_loaded_leaves_the_old_one(
    daemon: DaemonFactory, clip: Clip, tmp_path: Path
) -> None:
    file = f"id: a, url: {clip.path}, loop: true, paced: true"
    running = daemon(with_model(SHIPPED, file))
    running.wait_events(5)
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(SHIPPED.read_bytes()[:1000])
    rewrite(running, with_model(bad, file))
    assert "bad.onnx" in running.wait_for_log("reload_failed")["reason"]

    # A file that is there, which shows only to whoever reads it that it holds no pictures.
    rewrite(running, with_model(SHIPPED, file, precision="int8", calibrate=str(bad)))
    failed = running.wait_for_log("model_swap_failed")
    assert f"{bad}: invalid_data" in failed["reason"]
    assert failed["effect"] == f"{SHIPPED} goes on"

    rewrite(running, with_model(SHIPPED, file, imgsz=160))
    told = running.wait_for_log("reload_partial")
    assert told["sections"] == ["model"]
    assert "its input is 160x160" in told["reason"]

    # What was refused is not held against what comes next.
    rewrite(running, with_model(SHIPPED, file, confidence=0.999))
    running.wait_for_log("model_swapped")
    eventually(lambda: running.events()[-1].n == 0)
    assert len(sessions(running, "a")) == 1
    assert running.stop() == 0
    assert balanced(running.wait_for_log("stopped")["frames"])


def test_a_worker_that_dies_over_a_new_model_comes_back_with_the_old_one(
    daemon: DaemonFactory, clip: Clip, tmp_path: Path
) -> None:
    second = with_labels(SHIPPED, tmp_path / "second.onnx", ["x"] * len(names(SHIPPED)))
    file = f"id: a, url: {clip.path}, loop: true, paced: true"
    running = daemon(with_model(SHIPPED, file))
    running.wait_events(5)
    rewrite(running, with_model(second, file))
    running.wait_for_log("model_swap")
    running.children("inference")[0].kill()
    assert running.wait_for_log("model_swap_failed")["reason"] == "the worker that loaded it died"
    before = len(running.events())
    running.wait_events(before + 10)
    assert {event.data.model for event in running.events()} == {"shapes"}
    assert running.stop() == 0
