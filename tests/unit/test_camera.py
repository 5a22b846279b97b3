import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import av
import av.error
import numpy as np
import pytest
from av.codec.hwaccel import HWAccel
from av.error import tag_to_code
from av.video.stream import VideoStream

from streamd.clock import Backoff
from streamd.errors import Reason, SourceError
from streamd.ingest.access_units import Packet, Picture
from streamd.ingest.camera import Camera, CameraPlan
from streamd.ingest.decoder import DecodedFrame, Decoder
from streamd.ingest.feed import Feed, StreamInfo
from streamd.ingest.hwaccel import Accelerator, DecodePath
from streamd.ingest.rate_cap import RateCap
from streamd.ingest.slot_writer import Begun, Capture, SlotWriter
from streamd.processes.messages import CameraReport, CameraState
from streamd.slots import TsSource

from .fakes import FakeClock, TopOfRange

FPS = 10
FRAMES = 12
CONNECTING, ONLINE, OFFLINE = CameraState.CONNECTING, CameraState.ONLINE, CameraState.OFFLINE
DONE, FAILED, STOPPED = CameraState.DONE, CameraState.FAILED, CameraState.STOPPED


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of FRAMES frames, one a packet."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    write_clip(path, "libx264", {"preset": "ultrafast", "tune": "zerolatency"}, "yuv420p")
    return path


def write_clip(
    path: Path,
    encoder: str,
    options: dict[str, str],
    pixel_format: str,
    size: tuple[int, int] = (64, 48),
) -> None:
    with av.open(str(path), "w") as container:
        stream = cast(VideoStream, container.add_stream(encoder, rate=FPS, options=options))
        stream.width, stream.height, stream.pix_fmt = *size, pixel_format
        noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        for _ in range(FRAMES):
            picture = av.VideoFrame.from_ndarray(noise, format="rgb24")
            container.mux(stream.encode(picture.reformat(format=pixel_format)))
        container.mux(stream.encode(None))


@dataclass
class FakeFeed:
    """The packets of a file; `before(n)` runs before packet n is handed over.

    `retimed(n, pts)` gives packet n another pts. With `keyframes` those that are damaged are marked
    as such where they were.
    """

    path: Path
    live: bool
    before: Callable[[int], None] = lambda _: None
    damaged: bool = False
    keyframes: bool = False
    cut: bool = False
    packets_left: int = 10**6
    retimed: Callable[[int, int], int | None] | None = None
    closed: bool = False

    def __post_init__(self) -> None:
        self._container = av.open(str(self.path))
        self.info = StreamInfo("h264", float(FPS), self.live)

    @property
    def stream(self) -> VideoStream:
        return self._container.streams.video[0]

    def pictures(self) -> Iterator[Picture]:
        yield from (Picture.whole(packet, "h264") for packet in self._packets())

    def _packets(self) -> Iterator[Packet]:
        for number, packet in enumerate(self._container.demux(self.stream)):
            if number == self.packets_left:
                return
            self.before(number)
            if self.retimed is not None and packet.pts is not None:
                packet.pts = self.retimed(number, packet.pts)
            if packet.size and (self.damaged or self.cut):
                data = bytes(packet)[: packet.size // 2] if self.cut else b"\0" * 64
                yield self._instead_of(packet, data)
            else:
                yield packet

    def _instead_of(self, packet: Packet, data: bytes) -> Packet:
        other = av.Packet(data)
        other.stream, other.pts, other.dts = self.stream, packet.pts, packet.dts
        other.is_keyframe = packet.is_keyframe and (self.cut or self.keyframes)
        return cast("Packet", other)

    def close(self) -> None:
        self.closed = True
        self._container.close()


@dataclass
class FakeSource:
    """Opens these one after the other; what is an error is raised."""

    openings: list[Callable[[], FakeFeed] | SourceError]
    opened: list[FakeFeed] = field(default_factory=list)

    def open(self) -> Feed:
        opening = self.openings.pop(0)
        if isinstance(opening, SourceError):
            raise opening
        self.opened.append(opening())
        return self.opened[-1]


class FakeWriter(SlotWriter):
    """Remembers what it was given; `accepts` says whether the worker still runs."""

    def __init__(self) -> None:
        self.captures: list[Capture] = []
        self.damaged = 0
        self.accepts: Callable[[], bool] = lambda: True
        self.skipped = 0
        self.begun: Begun | None = None
        self.passed_over: list[float] = []

    def begin_recording(self, wall_ns: int, monotonic_ns: int) -> Begun:
        return self.begun or Begun(wall_ns, monotonic_ns, 0)

    def pass_over(self, media_s: float) -> None:
        self.passed_over.append(media_s)

    def wants(self, now_ns: int) -> bool:
        return not self.captures

    def count_skipped(self, now_ns: int) -> None:
        self.skipped += 1

    def write(self, frame: DecodedFrame, capture: Capture, work_ns: int) -> bool:
        self.captures.append(capture)
        return self.accepts()

    def count_decoding(self, cpu_ns: int, damaged: int) -> None:
        self.damaged += damaged


class Rig:
    """A camera whose source, clock and writer are played by the test."""

    def __init__(
        self,
        *openings: Callable[[], FakeFeed] | SourceError,
        loop: bool = False,
        paced: bool = False,
        give_up: bool = False,
        fps: float | None = None,
        accelerator: Accelerator | None = None,
        backoff: Backoff | None = None,
        source: FakeSource | None = None,
    ) -> None:
        self.clock = FakeClock()
        self.source = source or FakeSource(list(openings))
        self.writer = FakeWriter()
        self.reports: list[CameraReport] = []
        self.camera = Camera(
            CameraPlan("gate", fps, 10.0, 1800.0, loop=loop, paced=paced, give_up=give_up),
            source=self.source,
            accelerator=accelerator or Accelerator(),
            writer=self.writer,
            clock=self.clock,
            backoff=backoff or Backoff(first_s=1, longest_s=60, stable_s=30, rng=TopOfRange()),
            report=self.reports.append,
        )

    def run(self) -> None:
        """The whole life of the camera; its feeds have to be closed at the end of it."""
        self.camera.run()
        assert all(feed.closed for feed in self.source.opened)

    def run_until_openings_end(self) -> None:
        """For a camera that never ends: stops it at the wait after its last opening."""

        def stop_at_the_end() -> None:
            if not self.source.openings:
                self.camera.stop()

        self.clock.on_wait = stop_at_the_end
        self.run()

    @property
    def states(self) -> list[CameraState]:
        return [report.state for report in self.reports]

    @property
    def offline(self) -> list[tuple[Reason | None, float | None]]:
        return [(r.reason, r.retry_in_s) for r in self.reports if r.state is OFFLINE]


def refused() -> SourceError:
    return SourceError(Reason.REFUSED, "connection refused")


def test_a_first_connection_that_fails_is_tried_again(clip: Path) -> None:
    rig = Rig(refused(), refused(), lambda: FakeFeed(clip, live=False))
    rig.run()
    assert rig.states == [*[CONNECTING, OFFLINE] * 2, CONNECTING, ONLINE, DONE]
    assert rig.offline == [(Reason.REFUSED, 1), (Reason.REFUSED, 2)]
    assert rig.reports[1].detail == "connection refused"
    assert rig.clock.waits_s == [1, 2]


@pytest.mark.parametrize("seed", range(5))
def test_a_camera_that_appears_after_a_minute_is_online_within_one_step(
    clip: Path, seed: int
) -> None:
    class LateSource(FakeSource):
        def open(self) -> Feed:
            if rig.clock.monotonic_ns() < appears_ns:
                raise refused()
            return super().open()

    backoff = Backoff(rng=random.Random(seed))
    rig = Rig(backoff=backoff, source=LateSource([lambda: FakeFeed(clip, live=False)]))
    appears_ns = rig.clock.monotonic_ns() + 60_000_000_000
    rig.run()
    assert rig.states[-2:] == [ONLINE, DONE]
    tries = rig.states.count(OFFLINE)
    step_s = min(backoff.longest_s, backoff.first_s * 2 ** (tries - 1))
    assert (rig.clock.monotonic_ns() - appears_ns) / 1e9 <= step_s


def test_a_picture_that_nobody_wants_is_decoded_as_a_sign_of_life(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mkv", "mjpeg", {}, "yuvj420p")

    def feed() -> FakeFeed:
        return FakeFeed(tmp_path / "clip.mkv", live=True, before=lambda _: rig.clock.advance(3.0))

    rig = Rig(feed, fps=0.1)  # stalled after 10 s without one
    rig.run_until_openings_end()
    assert [reason for reason, _ in rig.offline] == [Reason.ENDED]
    assert rig.writer.skipped + len(rig.writer.captures) == FRAMES
    # All until three intervals between keyframes are known, then every other.
    assert len(rig.writer.captures) == 3 + 4


def test_a_camera_tells_what_it_delivers_once_it_is_online(clip: Path) -> None:
    rig = Rig(lambda: FakeFeed(clip, live=False))
    rig.run()
    assert rig.reports[1] == CameraReport(
        "gate", ONLINE, codec="h264", width=64, height=48, fps=FPS, decode="cpu"
    )


@dataclass
class ChangingFeed(FakeFeed):
    """Goes on with the packets of another file."""

    then: Path = Path()

    def _packets(self) -> Iterator[Packet]:
        for path in (self.path, self.then):
            with av.open(str(path)) as container:
                for packet in container.demux(video=0):
                    if packet.size:
                        self.before(0)
                        yield packet


def test_a_camera_tells_again_when_its_pictures_change_but_not_at_each(tmp_path: Path) -> None:
    first, second = tmp_path / "first.mkv", tmp_path / "second.mkv"
    write_clip(first, "mjpeg", {}, "yuvj420p")
    write_clip(second, "mjpeg", {}, "yuvj420p", size=(96, 64))

    def feed() -> FakeFeed:
        return ChangingFeed(first, True, lambda _: rig.clock.advance(0.07), then=second)

    rig = Rig(feed)
    rig.run_until_openings_end()
    assert rig.states == [CONNECTING, ONLINE, ONLINE, OFFLINE, STOPPED]
    online = [report for report in rig.reports if report.state is ONLINE]
    assert [(report.width, report.height) for report in online] == [(64, 48), (96, 64)]
    assert len(rig.writer.captures) == 2 * FRAMES


def test_a_file_that_ends_is_done_with_all_of_its_frames(clip: Path) -> None:
    rig = Rig(lambda: FakeFeed(clip, live=False))
    start_ns = rig.clock.time_ns()
    rig.run()
    assert rig.states[-1] is DONE
    assert [c.media_s for c in rig.writer.captures] == pytest.approx(
        [n / FPS for n in range(FRAMES)]
    )
    assert all(c.lossless and c.ts_source is TsSource.PTS for c in rig.writer.captures)
    offsets_s = [(c.wall_ns - start_ns) / 1e9 for c in rig.writer.captures]
    assert offsets_s == pytest.approx([n / FPS for n in range(FRAMES)])


def test_a_live_frame_counts_as_captured_when_its_packet_came(clip: Path) -> None:
    rig = Rig(lambda: FakeFeed(clip, live=True, before=lambda _: rig.clock.advance(0.25)))
    start_ns = rig.clock.monotonic_ns()
    rig.run_until_openings_end()
    assert [c.monotonic_ns - start_ns for c in rig.writer.captures] == [
        250_000_000 * (n + 1) for n in range(FRAMES)
    ]
    assert all(c.ts_source is TsSource.ARRIVAL and not c.lossless for c in rig.writer.captures)
    assert [c.wall_ns - c.monotonic_ns for c in rig.writer.captures] == (
        [rig.clock.time_ns() - rig.clock.monotonic_ns()] * FRAMES
    )


def test_a_live_stream_that_ends_is_offline_and_opened_again(clip: Path) -> None:
    live = [lambda: FakeFeed(clip, live=True)] * 2
    rig = Rig(*live)
    rig.run_until_openings_end()
    assert rig.states == [*[CONNECTING, ONLINE, OFFLINE] * 2, STOPPED]
    assert [reason for reason, _ in rig.offline] == [Reason.ENDED] * 2


def flapping(rig: Callable[[], Rig], clip: Path, lasts_s: float) -> Callable[[], FakeFeed]:
    """A live stream that delivers a frame a second for `lasts_s` seconds and breaks off."""

    def before(number: int) -> None:
        rig().clock.advance(lasts_s / (FRAMES - 2))
        if number == FRAMES - 1:
            raise SourceError(Reason.TIMEOUT, "no answer")

    return lambda: FakeFeed(clip, live=True, before=before)


def test_a_camera_that_flaps_is_asked_ever_less_often(clip: Path) -> None:
    rig = Rig(*[flapping(lambda: rig, clip, 29)] * 4)
    rig.run_until_openings_end()
    assert rig.offline == [(Reason.TIMEOUT, retry_s) for retry_s in (1, 2, 4, 8)]


def test_thirty_stable_seconds_make_the_next_wait_short_again(clip: Path) -> None:
    rig = Rig(*[flapping(lambda: rig, clip, 5)] * 3, *[flapping(lambda: rig, clip, 31)] * 2)
    rig.run_until_openings_end()
    assert [retry_s for _, retry_s in rig.offline] == [1, 2, 4, 1, 1]


def test_a_refused_password_is_not_tried_often(clip: Path) -> None:
    rig = Rig(
        SourceError(Reason.AUTH_FAILED, "401"),
        SourceError(Reason.AUTH_FAILED, "401"),
        lambda: FakeFeed(clip, live=False),
    )
    rig.run()
    assert rig.clock.waits_s == [60, 60]
    assert rig.offline == [(Reason.AUTH_FAILED, 60)] * 2


def test_a_source_that_is_to_be_given_up_is_failed_at_once(clip: Path) -> None:
    rig = Rig(SourceError(Reason.NOT_FOUND, "no such file"), give_up=True)
    rig.run()
    assert rig.states == [CONNECTING, FAILED]
    assert (rig.reports[-1].reason, rig.reports[-1].detail) == (Reason.NOT_FOUND, "no such file")
    assert rig.clock.waits_s == []


def break_off(number: int) -> None:
    if number == 3:
        raise SourceError(Reason.INVALID_DATA, "truncated")


def test_a_recording_that_breaks_off_is_not_begun_again(clip: Path) -> None:
    rig = Rig(lambda: FakeFeed(clip, live=False, before=break_off))
    rig.run()
    assert rig.states == [CONNECTING, ONLINE, FAILED]
    assert rig.reports[-1].reason is Reason.INVALID_DATA
    assert len(rig.writer.captures) == 3


def test_a_loop_that_breaks_off_is_begun_again_and_its_times_go_on(clip: Path) -> None:
    rig = Rig(
        lambda: FakeFeed(clip, live=False, before=break_off),
        lambda: FakeFeed(clip, live=False),
        loop=True,
    )
    rig.writer.accepts = lambda: len(rig.writer.captures) < 3 + FRAMES
    rig.run()
    assert rig.offline == [(Reason.INVALID_DATA, 1)]
    assert_times_increase(rig.writer.captures, 3 + FRAMES)


def test_a_loop_that_comes_to_deliver_nothing_goes_offline_and_waits(clip: Path) -> None:
    rig = Rig(lambda: FakeFeed(clip, False), lambda: FakeFeed(clip, False, damaged=True), loop=True)
    rig.run_until_openings_end()
    assert rig.states == [CONNECTING, ONLINE, OFFLINE, STOPPED]
    assert rig.offline == [(Reason.INVALID_DATA, 1)]


def assert_times_increase(captures: list[Capture], count: int) -> None:
    assert len(captures) == count
    for times in ([c.media_s for c in captures], [c.wall_ns for c in captures]):
        assert times == sorted(set(times))


def test_a_loop_opens_its_file_again_and_its_times_go_on(clip: Path) -> None:
    rig = Rig(*[lambda: FakeFeed(clip, live=False)] * 3, loop=True)
    rig.writer.accepts = lambda: len(rig.writer.captures) < 3 * FRAMES
    rig.run()
    assert rig.states == [CONNECTING, ONLINE, STOPPED]
    assert_times_increase(rig.writer.captures, 3 * FRAMES)
    assert rig.writer.captures[-1].media_s == pytest.approx((3 * FRAMES - 1) / FPS)


@pytest.mark.parametrize("paced", [False, True])
def test_a_recording_goes_on_with_the_first_frame_that_no_reader_has_taken(
    clip: Path, paced: bool
) -> None:
    whole, rest = (Rig(lambda: FakeFeed(clip, live=False), paced=paced) for _ in range(2))
    began_ns = rest.clock.time_ns(), rest.clock.monotonic_ns()
    rest.writer.begun = Begun(*began_ns, frames=5)
    rest.clock.advance(0.75)
    whole.run()
    rest.run()
    assert rest.writer.passed_over == pytest.approx([n / FPS for n in range(5)])
    for field_ in ("media_s", "wall_ns"):
        expected = [getattr(one, field_) for one in whole.writer.captures[5:]]
        assert [getattr(one, field_) for one in rest.writer.captures] == expected
    if paced:  # what is late comes at once, and then in time
        assert sum(rest.clock.waits_s) == pytest.approx((FRAMES - 1) / FPS - 0.75)


def test_damage_that_an_earlier_reader_booked_is_not_booked_again(clip: Path) -> None:
    rig = Rig(lambda: FakeFeed(clip, live=False, damaged=True))
    rig.writer.begun = Begun(1, 1, frames=5)
    rig.run_until_openings_end()
    assert rig.writer.damaged == 0


def test_a_looped_file_begins_anew_with_each_reader(clip: Path) -> None:
    rig = Rig(lambda: FakeFeed(clip, live=False), loop=True)
    rig.writer.begun = Begun(1, 1, frames=5)
    rig.writer.accepts = lambda: len(rig.writer.captures) < FRAMES
    rig.run()
    assert len(rig.writer.captures) == FRAMES
    assert rig.writer.captures[0].media_s == 0


def test_a_paced_file_is_delivered_in_its_own_time(clip: Path) -> None:
    rig = Rig(lambda: FakeFeed(clip, live=False), paced=True)
    start_ns = rig.clock.monotonic_ns()
    rig.run()
    due_s = [(c.monotonic_ns - start_ns) / 1e9 for c in rig.writer.captures]
    assert due_s == pytest.approx([n / FPS for n in range(FRAMES)])


def test_a_late_paced_file_catches_up_without_waiting(clip: Path) -> None:
    rig = Rig(
        lambda: FakeFeed(clip, False, before=lambda n: rig.clock.advance(5 if n == 2 else 0)),
        paced=True,
    )
    rig.run()
    assert sum(rig.clock.waits_s) == pytest.approx(1 / FPS)


HOUR_S = 3600.0


def seconds(times_ns: list[int], since_ns: int = 0) -> list[float]:
    return [(at_ns - since_ns) / 1e9 for at_ns in times_ns]


@pytest.mark.parametrize(
    "retimed",
    [
        pytest.param(lambda n, pts: pts + (90_000 * 7200 if n >= 5 else 0), id="ahead by hours"),
        pytest.param(lambda n, pts: pts - (90_000 * 60 if n >= 5 else 0), id="goes back"),
        pytest.param(lambda n, pts: None if n >= 5 else pts, id="missing"),
    ],
)
def test_a_file_whose_pts_jump_goes_on_in_its_own_pace(
    clip: Path, retimed: Callable[[int, int], int | None]
) -> None:
    rig = Rig(lambda: FakeFeed(clip, live=False, retimed=retimed), paced=True)
    start_ns, start_wall_ns = rig.clock.monotonic_ns(), rig.clock.time_ns()
    rig.run()
    due_s = [n / FPS for n in range(FRAMES)]
    assert seconds([c.monotonic_ns for c in rig.writer.captures], start_ns) == pytest.approx(due_s)
    assert seconds([c.wall_ns for c in rig.writer.captures], start_wall_ns) == pytest.approx(due_s)


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S])
def test_a_step_of_this_hosts_clock_is_followed_by_ts_and_by_nothing_else(
    clip: Path, step_s: float
) -> None:
    def before(number: int) -> None:
        rig.clock.advance(0.1)
        if number == 6:
            rig.clock.epoch_ns += round(step_s * 1e9)

    rig = Rig(lambda: FakeFeed(clip, live=True, before=before))
    start_ns, start_wall_ns = rig.clock.monotonic_ns(), rig.clock.time_ns()
    rig.run_until_openings_end()
    elapsed_s = [0.1 * (n + 1) for n in range(FRAMES)]
    captures = rig.writer.captures
    assert seconds([c.monotonic_ns for c in captures], start_ns) == pytest.approx(elapsed_s)
    assert [c.media_s for c in captures] == pytest.approx(
        [start_ns / 1e9 + at_s for at_s in elapsed_s]
    )
    stepped_s = [at_s + (step_s if n >= 6 else 0) for n, at_s in enumerate(elapsed_s)]
    assert seconds([c.wall_ns for c in captures], start_wall_ns) == pytest.approx(stepped_s)
    assert rig.states == [CONNECTING, ONLINE, OFFLINE, STOPPED]


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S])
def test_a_step_of_this_hosts_clock_does_not_touch_a_file(clip: Path, step_s: float) -> None:
    def before(number: int) -> None:
        if number == 6:
            rig.clock.epoch_ns += round(step_s * 1e9)

    rig = Rig(lambda: FakeFeed(clip, live=False, before=before), paced=True)
    start_wall_ns = rig.clock.time_ns()
    rig.run()
    times_s = seconds([c.wall_ns for c in rig.writer.captures], start_wall_ns)
    assert times_s == pytest.approx([n / FPS for n in range(FRAMES)])


@pytest.mark.parametrize("jump", [90_000 * 7200, -90_000 * 7200])
def test_a_live_pts_that_jumps_has_no_say_in_times_and_rates(clip: Path, jump: int) -> None:
    rig = Rig(
        lambda: FakeFeed(
            clip,
            live=True,
            before=lambda _: rig.clock.advance(1 / 21),
            retimed=lambda n, pts: pts + (jump if n >= 6 else 0),
        )
    )
    start_ns = rig.clock.monotonic_ns()
    rig.run_until_openings_end()
    captures = rig.writer.captures
    assert seconds([c.monotonic_ns for c in captures], start_ns) == pytest.approx(
        [(n + 1) / 21 for n in range(FRAMES)]
    )
    cap = RateCap(7.0)
    kept = [n for n, capture in enumerate(captures) if cap.admits(capture.media_s)]
    assert kept == list(range(0, FRAMES, 3)), "21 frames a second arrive, whatever the camera says"


@dataclass
class ToldTimes:
    """In place of SenderReports: packet n was captured at `camera_ns(n)`, None: not known."""

    camera_ns: Callable[[int], int | None]
    asked: int = -1

    def capture_ns(
        self, packet: object, monotonic_ns: int, *, reported_after: bool = False
    ) -> int | None:
        self.asked += 1
        return self.camera_ns(self.asked)


def with_camera_clock(
    clip: Path, monkeypatch: pytest.MonkeyPatch, offset_s: Callable[[int], float | None]
) -> tuple[Rig, list[float]]:
    """A live camera whose clock is `offset_s(n)` ahead at frame n; its frames' ts errors."""
    rig = Rig(lambda: FakeFeed(clip, live=True, before=lambda _: rig.clock.advance(0.1)))

    def camera_ns(number: int) -> int | None:
        ahead_s = offset_s(number)
        return None if ahead_s is None else rig.clock.time_ns() + round(ahead_s * 1e9)

    monkeypatch.setattr("streamd.ingest.decoder.SenderReports", lambda **_: ToldTimes(camera_ns))
    rig.run_until_openings_end()
    truth_ns = [c.monotonic_ns + rig.clock.epoch_ns for c in rig.writer.captures]
    errors = [c.wall_ns - at for c, at in zip(rig.writer.captures, truth_ns, strict=True)]
    return rig, seconds(errors)


def test_a_camera_that_tells_its_clock_late_is_believed_from_then_on(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, errors_s = with_camera_clock(clip, monkeypatch, lambda n: -0.4 if n >= 4 else None)
    assert errors_s == pytest.approx([0.0] * 4 + [-0.4] * (FRAMES - 4))
    assert [c.ts_source for c in rig.writer.captures] == (
        [TsSource.ARRIVAL] * 4 + [TsSource.RTCP] * (FRAMES - 4)
    )


def test_a_camera_that_lives_in_1970_does_not_poison_ts_and_is_told_of_once(
    clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rig, errors_s = with_camera_clock(clip, monkeypatch, lambda _: -1.7e9)
    assert errors_s == [0.0] * FRAMES
    assert {c.ts_source for c in rig.writer.captures} == {TsSource.ARRIVAL}
    said = "".join(capsys.readouterr())
    assert said.count("camera_clock_ignored") == 1
    assert "gate" in said


def test_a_camera_whose_every_jpeg_is_sloppy_is_read_by_a_decoder_that_conceals(
    clip: Path, tmp_path: Path
) -> None:
    jpegs = tmp_path / "clip.mkv"
    write_clip(jpegs, "mjpeg", {}, "yuvj420p")
    sloppy = partial(FakeFeed, jpegs, live=False, cut=True)
    rig = Rig(sloppy, sloppy)
    rig.run()
    assert rig.states == [CONNECTING, ONLINE, DONE]
    assert len(rig.writer.captures) == FRAMES
    assert rig.writer.damaged == 3


def test_a_bad_line_at_one_connection_does_not_make_its_decoder_conceal_at_the_next(
    tmp_path: Path,
) -> None:
    jpegs = tmp_path / "clip.mkv"
    write_clip(jpegs, "mjpeg", {}, "yuvj420p")
    sloppy = partial(FakeFeed, jpegs, live=True, cut=True)
    rig = Rig(*[sloppy] * 4)
    rig.run_until_openings_end()
    assert rig.states == [*[CONNECTING, ONLINE, OFFLINE] * 2, STOPPED]
    assert len(rig.writer.captures) == 2 * FRAMES
    assert rig.writer.damaged == 2 * 3, "each connection began with a decoder that is strict"


def test_packets_that_never_make_a_frame_are_a_stall_and_are_counted_as_damaged(
    clip: Path,
) -> None:
    rig = Rig(lambda: FakeFeed(clip, True, before=lambda _: rig.clock.advance(3.0), damaged=True))
    rig.run_until_openings_end()
    assert rig.states == [CONNECTING, OFFLINE, STOPPED]
    assert rig.offline == [(Reason.STALLED, 1)]
    assert rig.reports[1].detail == "no whole frame for 12 s"
    assert rig.writer.captures == []
    assert rig.writer.damaged == 4


def test_a_recording_may_take_its_time(clip: Path) -> None:
    rig = Rig(lambda: FakeFeed(clip, live=False, before=lambda _: rig.clock.advance(60)))
    rig.run()
    assert rig.states[-1] is DONE


def test_a_file_without_a_frame_that_can_be_decoded_is_invalid(clip: Path) -> None:
    broken = [lambda: FakeFeed(clip, live=False, damaged=True)]
    rig = Rig(*broken, give_up=True)
    rig.run()
    assert rig.states == [CONNECTING, FAILED]
    assert rig.reports[-1].reason is Reason.INVALID_DATA
    patient = Rig(*broken, lambda: FakeFeed(clip, live=False))
    patient.run()
    assert patient.states == [CONNECTING, OFFLINE, CONNECTING, ONLINE, DONE]


def test_a_stop_during_the_wait_for_the_next_try_ends_it(clip: Path) -> None:
    rig = Rig(refused())
    rig.clock.on_wait = rig.camera.stop
    rig.run()
    assert rig.states == [CONNECTING, OFFLINE, STOPPED]


def test_a_stop_while_reading_ends_before_the_next_packet_is_decoded(clip: Path) -> None:
    def stop_at_4(number: int) -> None:
        if number == 4:
            rig.camera.stop()

    rig = Rig(lambda: FakeFeed(clip, live=True, before=stop_at_4))
    rig.run()
    assert rig.states == [CONNECTING, ONLINE, STOPPED]
    assert len(rig.writer.captures) == 4


def test_a_stop_while_a_frame_waits_for_a_slot_ends_it(clip: Path) -> None:
    rig = Rig(lambda: FakeFeed(clip, live=False))
    rig.writer.accepts = lambda: False
    rig.run()
    assert rig.states == [CONNECTING, ONLINE, STOPPED]
    assert len(rig.writer.captures) == 1


def test_an_error_of_the_program_is_not_taken_for_one_of_the_source(clip: Path) -> None:
    def fail(_: int) -> None:
        raise RuntimeError("a bug")

    rig = Rig(lambda: FakeFeed(clip, live=True, before=fail))
    with pytest.raises(RuntimeError, match="a bug"):
        rig.run()
    assert rig.source.opened[0].closed


def accelerator_in_use() -> Accelerator:
    """Of a machine whose GPU can be opened; the fake feeds are decoded by the CPU all the same."""
    accelerator = Accelerator("auto", missing=lambda: None, open_device=lambda: HWAccel("cuda"))
    assert accelerator.hwaccel() is not None
    return accelerator


def test_a_gpu_that_gives_no_frame_leaves_the_file_to_the_cpu(clip: Path) -> None:
    broken = partial(FakeFeed, clip, live=False, damaged=True, keyframes=True)
    rig = Rig(broken, partial(FakeFeed, clip, live=False), accelerator=accelerator_in_use())
    rig.run()
    assert [r.state for r in rig.reports][-2:] == [CameraState.ONLINE, CameraState.DONE]
    online = rig.reports[-2]
    assert (online.decode, online.decode_note) == ("cpu", "the GPU decoded no frame")
    assert len(rig.writer.captures) == FRAMES


def test_a_gpu_that_got_no_keyframe_is_not_to_blame(clip: Path) -> None:
    late = partial(FakeFeed, clip, live=True, packets_left=0)
    accelerator = accelerator_in_use()
    rig = Rig(late, partial(FakeFeed, clip, live=False), accelerator=accelerator)
    rig.run()
    assert [r.state for r in rig.reports][-2:] == [CameraState.ONLINE, CameraState.DONE]
    assert CameraState.OFFLINE in [r.state for r in rig.reports]
    assert rig.reports[-2].decode_note != "the GPU decoded no frame"


def test_without_a_gpu_a_file_that_gives_no_frame_is_not_read_again(clip: Path) -> None:
    rig = Rig(partial(FakeFeed, clip, live=False, damaged=True), give_up=True)
    rig.run()
    assert rig.reports[-1].state is CameraState.FAILED


class OnTheDevice(Accelerator):
    """Calls every frame one of the GPU's for as long as that is in use."""

    def path_of(self, stream: VideoStream, image: av.VideoFrame) -> DecodePath:
        return "cuda" if self.in_use else "cpu"


@pytest.mark.parametrize("code", ["EXT ", "INDA"])
def test_a_gpu_that_ceases_to_decode_leaves_a_live_camera_to_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    path = tmp_path / "keyframes.mp4"
    write_clip(path, "libx264", {"tune": "zerolatency", "g": "1"}, "yuv420p")
    accelerator = OnTheDevice("auto", missing=lambda: None, open_device=lambda: HWAccel("cuda"))
    accelerator.hwaccel()
    decode = Decoder._images

    def decode_five(decoder: Decoder, picture: Picture, origin: Any) -> list[av.VideoFrame]:
        if accelerator.in_use and origin.number > 5:
            av.error.err_check(-tag_to_code(code.encode()))
        return decode(decoder, picture, origin)

    monkeypatch.setattr(Decoder, "_images", decode_five)
    feeds = [partial(FakeFeed, path, live=live) for live in (True, False)]
    rig = Rig(*feeds, accelerator=accelerator)
    rig.run()
    assert rig.states == [CONNECTING, ONLINE, OFFLINE, CONNECTING, ONLINE, DONE]
    ended, online = rig.reports[2], rig.reports[4]
    if code == "EXT ":
        what = "the GPU has ceased to decode"
        assert (ended.reason, ended.detail) == (Reason.INVALID_DATA, what)
        assert (online.decode, online.decode_note) == ("cpu", what)
        assert rig.writer.damaged == 3
    else:  # the stream's own fault
        assert ended.reason is Reason.ENDED
        assert online.decode == "cuda"
