"""What users of other systems suffered from and no other test shows; docs/operations.md lists all.

The table there names a test for each report, and this module holds it to that.
"""

import re
from pathlib import Path
from statistics import median

import redis
from prometheus_client.parser import text_string_to_metric_families

from streamd.capacity.scrape import FRAMES, scrape
from streamd.demo.clips import Clip
from streamd.testing.redis_server import RedisServer
from streamd.testing.rtsp_server import RtspServer

from .harness import STREAM, Daemon, DaemonFactory, eventually

ROOT = Path(__file__).parents[2]
REPORTS = 28


def metric(running: Daemon, family: str, name: str = "") -> float:
    """The sum of a metric's samples."""
    families = {f.name: f for f in text_string_to_metric_families(running.get("/metrics").text)}
    return sum(s.value for s in families[family].samples if s.name == (name or family))


def test_every_report_names_tests_that_exist() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    section = text.split("## Reports from the field", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| (\d+) \|(.*)$", section, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, REPORTS + 1))
    for number, row in rows:
        named = re.findall(r"`(test_\w+)\.(test_\w+)`", row)
        assert named, f"report {number} names no test"
        for module, test in named:
            sources = [path.read_text() for path in (ROOT / "tests").rglob(f"{module}.py")]
            found = any(f"def {test}(" in source for source in sources)
            assert found, f"report {number}: {module} has no {test}"


def test_a_camera_that_freezes_looks_frozen(
    daemon: DaemonFactory, rtsp_server: RtspServer, clip: Clip
) -> None:
    mount = rtsp_server.mount("/gate", clip.path)
    running = daemon(f"cameras: [{{id: a, url: '{mount.url}', stall_timeout_s: 4}}]")
    running.wait_ready()
    eventually(lambda: running.cameras()["a"]["inferred_fps"] > 5)
    assert metric(running, "streamd_camera_last_frame_age_seconds") < 2
    mount.stall = True
    # Before it is even known to be stalled: rates count what was inferred, ages what came.
    eventually(lambda: metric(running, "streamd_camera_last_frame_age_seconds") > 2)
    running.wait_state("a", "offline", "stalled")
    assert metric(running, "streamd_camera_up") == 0
    eventually(lambda: running.cameras()["a"]["inferred_fps"] < 1)


def test_frames_of_many_cameras_share_batches(daemon: DaemonFactory, clip: Clip) -> None:
    files = "".join(f"  - {{id: c{n}, url: {clip.path}, loop: true}}\n" for n in range(4))
    # Time enough for a busy machine to decode one of each, once all of them are there.
    running = daemon(
        "model: {batch_size: 4, max_wait_ms: 2000, imgsz: 320, precision: fp32}\n"
        f"cameras:\n{files}"
    )
    running.wait_ready()
    for number in range(4):
        running.wait_state(f"c{number}", "online")

    def seen() -> tuple[float, float]:
        """Batches and frames so far."""
        samples = scrape(running.http)
        return samples["streamd_batch_size_count", ""], samples[FRAMES]

    batches, frames = seen()
    eventually(lambda: seen()[0] > batches + 20)
    later_batches, later_frames = seen()
    assert (later_frames - frames) / (later_batches - batches) > 3


def test_results_do_not_get_older_and_older_under_overload(
    daemon: DaemonFactory, rtsp_server: RtspServer, clip: Clip
) -> None:
    mounts = [rtsp_server.mount(f"/{n}", clip.path) for n in range(6)]
    cameras = "".join(f"  - {{id: c{n}, url: '{m.url}'}}\n" for n, m in enumerate(mounts))
    model = "model: {imgsz: 896, batch_size: 2, precision: fp32}"
    running = daemon(f"{model}\npublish: all\ncameras:\n{cameras}")
    running.wait_ready()
    eventually(lambda: all(c["frames"]["overwritten"] > 5 for c in running.cameras().values()))
    then = len(running.events())
    events = running.wait_events(then + 120)[then:]
    # In inferences, which get longer with everything else where other work shares the machine.
    ages = [event.data.latency_ms.total / event.data.latency_ms.infer for event in events]
    # With a queue the last would be seconds older than the first.
    assert median(ages[-40:]) < 3 * median(ages[:40])


def test_redis_holds_references_and_a_bounded_number_of_them(
    daemon: DaemonFactory, redis_server: RedisServer, clip: Clip
) -> None:
    running = daemon(
        f"publish: all\ncameras: [{{id: a, url: {clip.path}, loop: true}}]",
        redis_settings="max_entries: 100",
    )
    running.wait_ready()
    eventually(lambda: running.cameras()["a"]["frames"]["inferred"] > 600)
    with redis.Redis.from_url(redis_server.url) as client:
        # "~ 100" trims by whole nodes of the stream, of 100 entries each.
        assert client.xlen(STREAM) <= 300
        (entry,) = client.xrevrange(STREAM, count=1)
    assert sum(len(value) for value in entry[1].values()) < 10_000
    events = running.events()  # at one moment, as others come
    assert len(events) == len({event.id for event in events})


def test_an_inference_that_keeps_dying_backs_off_and_the_service_is_not_ready(
    daemon: DaemonFactory, clip: Clip
) -> None:
    file = f"{{id: a, url: {clip.path}, loop: true, paced: true}}"
    running = daemon(f"publish: all\ncameras: [{file}]")
    running.wait_events(3)
    for count in range(1, 5):
        (worker,) = eventually(lambda: running.children("inference"))
        worker.kill()
        eventually(lambda: "engine" in running.get("/readyz").text)
        eventually(lambda n=count: len(running.logged("worker_died")) == n)  # type: ignore[misc]
    waits_s = [line["restart_in_s"] for line in running.logged("worker_died")]
    # Full jitter: each is drawn from 0 to a step that doubles.
    assert all(wait_s <= 2**n for n, wait_s in enumerate(waits_s))
    assert metric(running, "streamd_worker_deaths", "streamd_worker_deaths_total") == 4
    running.wait_events(len(running.events()) + 5)
    assert running.get("/readyz").status_code == 200
