"""One camera: its thread reads, decodes and fills slots, and is the only place that retries."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from streamd.clock import Backoff, Clock
from streamd.errors import Reason, SourceError
from streamd.ingest.access_units import Picture
from streamd.ingest.decoder import DecodedFrame, Decoder
from streamd.ingest.feed import Feed
from streamd.ingest.hwaccel import Accelerator
from streamd.ingest.letterbox import display_size
from streamd.ingest.slot_writer import Capture, SlotWriter
from streamd.ingest.source import Source
from streamd.ingest.thinning import KeyframeGate
from streamd.ingest.timeline import CameraClock, FileTimeline, SegmentPace
from streamd.logs import get_logger
from streamd.processes.messages import CameraReport, CameraState
from streamd.slots import TsSource

Report = Callable[[CameraReport], None]

_TELL_AGAIN_AFTER_NS = 10**9  # of what a camera delivers, where that changes


@dataclass(frozen=True, slots=True)
class CameraPlan:
    """How a camera is to be read. `give_up` ends a source that fails instead of trying again.

    `max_clock_offset_s` is by how much the camera's clock may differ from this host's. `fps` is the
    rate that is asked for, None for all frames.
    """

    id: str
    fps: float | None
    stall_timeout_s: float
    max_clock_offset_s: float
    loop: bool
    paced: bool
    give_up: bool


class _Stopped(Exception):  # noqa: N818  # no error: it unwinds the thread of a camera
    """The worker is to end."""


class Camera:
    """Reads one source until it is done or stopped.

    The source with its accelerator, the clock and the back-off are passed in; `report` hears of
    every change of state.
    """

    def __init__(
        self,
        plan: CameraPlan,
        *,
        source: Source,
        accelerator: Accelerator,
        writer: SlotWriter,
        clock: Clock,
        backoff: Backoff,
        report: Report,
    ) -> None:
        self._plan = plan
        self._source = source
        self._accelerator = accelerator
        self._writer = writer
        self._clock = clock
        self._backoff = backoff
        self._report = report
        self._stop = threading.Event()
        self._timeline = FileTimeline(clock)
        self._camera_clock = CameraClock(plan.max_clock_offset_s, self._tell_of_clock)
        self._recording = False
        self._taken = 0  # frames of a recording that an earlier reader took, and come again
        self._strict, self._refused = True, False
        self._had_keyframe = False  # since the source was opened
        self._online_ns: int | None = None
        self._told: tuple[int, int, str] | None = None  # width, height, pixel format
        self._told_ns = 0
        self._last_sign_ns = 0

    def stop(self) -> None:
        """Asks the thread to end after the packet it is at."""
        self._stop.set()

    def run(self) -> None:
        """The whole life of the camera; returns when it is done, given up or stopped."""
        try:
            while True:
                self._tell(CameraState.CONNECTING)
                try:
                    self.run_once()
                except SourceError as error:
                    if self._plan.give_up or self._would_repeat():
                        return self._tell(CameraState.FAILED, error)
                    self._wait_for_next_try(error)
                else:
                    return self._tell(CameraState.DONE)
        except _Stopped:
            self._tell(CameraState.STOPPED)

    def run_once(self) -> None:
        """Reads the source to its end, a looped file for ever. Raises SourceError if it fails."""
        self._online_ns = self._told = None
        self._strict, self._refused = True, False
        while True:
            feed = self._source.open()
            self._recording = not feed.info.live
            try:
                self._read(feed)
            except SourceError:
                if not (self._was_the_device() or self._was_too_strict()):
                    raise
                continue
            finally:
                feed.close()
            if feed.info.live:
                raise SourceError(Reason.ENDED, "the other side closed the stream")
            if not self._plan.loop:
                return

    def _was_the_device(self) -> bool:
        """Whether a GPU is to blame that made no frame of a keyframe; then the CPU has its turn."""
        silent = self._online_ns is None and self._had_keyframe
        if not silent or not self._accelerator.in_use:
            return False
        self._accelerator.lost("the GPU decoded no frame")
        return True

    def _was_too_strict(self) -> bool:
        """Whether the camera's pictures are such that only a decoder that conceals takes them.

        A bad line looks the same, so this holds for one connection only.
        """
        refused, self._refused = self._refused, False
        self._strict = self._strict and not refused
        return refused

    def _would_repeat(self) -> bool:
        """A recording that broke off is not begun again: its frames would be published twice."""
        return self._recording and self._online_ns is not None and not self._plan.loop

    def _wait_for_next_try(self, error: SourceError) -> None:
        # A refused password is not tried often: cameras lock the account or the address.
        slow = error.reason is Reason.AUTH_FAILED
        delay_s = self._backoff.longest_delay_s() if slow else self._backoff.next_delay_s()
        self._tell(CameraState.OFFLINE, error, retry_in_s=round(delay_s, 2))
        self._sleep(delay_s)

    def _read(self, feed: Feed) -> None:
        """One opened source, from its first packet to its last."""
        decoder = Decoder(feed.stream, self._clock, strict=self._strict)
        # With keyframes alone, one that comes a little late must not look like a stall.
        gate = KeyframeGate(
            self._plan.fps if feed.info.live else None, self._plan.stall_timeout_s / 2
        )
        pace = SegmentPace(self._clock) if feed.info.live and feed.info.in_segments else None
        self._last_sign_ns = self._clock.monotonic_ns()
        self._had_keyframe = False
        frames = 0
        if self._recording:
            self._begin_recording()
        for picture in feed.pictures():
            if self._stop.is_set():
                raise _Stopped
            if pace:
                self._sleep(pace.ahead_s(picture.decoding_s))
            now_ns = self._clock.monotonic_ns()
            if gate.thins and picture.size and self._skips(picture, decoder, gate, now_ns):
                self._writer.count_skipped(now_ns)
                self._check_stall(feed)
                continue
            decoded = decoder.decode(picture)
            self._had_keyframe = self._had_keyframe or picture.is_keyframe
            self._writer.count_decoding(decoded.cpu_ns, 0 if self._taken else decoded.damaged)
            if decoded.keyframe or decoded.frames:
                self._last_sign_ns = self._clock.monotonic_ns()
            for frame in decoded.frames:
                self._take(feed, frame, decoded.cpu_ns)
            frames += len(decoded.frames)
            self._check_device(feed, decoder)
            self._check_stall(feed)
            self._refused = decoder.refuses_all
            if self._refused:
                break
        if not frames:
            raise SourceError(Reason.INVALID_DATA, "holds no frame that can be decoded")

    def _begin_recording(self) -> None:
        """Goes on where a reader died that was there before, unless the file is looped."""
        if self._plan.loop:
            self._timeline.restart()
            return
        begun = self._writer.begin_recording(self._clock.time_ns(), self._clock.monotonic_ns())
        self._timeline.restart((begun.wall_ns, begun.monotonic_ns))
        self._taken = begun.frames
        if begun.frames:
            get_logger(camera=self._plan.id).info("recording_resumed", frames_taken=begun.frames)

    def _skips(self, picture: Picture, decoder: Decoder, gate: KeyframeGate, now_ns: int) -> bool:
        """Leaves out `picture` where nobody wants it, nor one that builds upon it."""
        wanted = self._wants(now_ns)
        if picture.is_disposable and not wanted:
            decoder.drop(picture)
            return True
        # Keyframes alone come out of a decoder that reorders only with the next keyframe.
        skips = not decoder.delays and gate.skips(
            picture.is_keyframe, now_ns / 1e9, media_s=decoder.media_s(picture), wanted=wanted
        )
        if skips:
            decoder.skip(picture)
        return skips

    def _wants(self, now_ns: int) -> bool:
        """Whether a picture that comes now is wanted: for itself, or as a sign of life."""
        silent_s = (now_ns - self._last_sign_ns) / 1e9
        return self._writer.wants(now_ns) or silent_s > self._plan.stall_timeout_s / 2

    def _take(self, feed: Feed, frame: DecodedFrame, decode_ns: int) -> None:
        now_ns = self._clock.monotonic_ns()
        if self._online_ns is None:
            self._online_ns = now_ns
        elif now_ns - self._online_ns >= self._backoff.stable_s * 1e9:
            self._backoff.reset()
        image = frame.image
        delivers = image.width, image.height, image.format.name
        is_due = self._told is None or now_ns - self._told_ns >= _TELL_AGAIN_AFTER_NS
        if delivers != self._told and is_due:
            self._told, self._told_ns = delivers, now_ns
            self._tell_online(feed, frame)
        if self._taken:
            self._taken -= 1
            self._writer.pass_over(self._timeline.place(frame.pts_s))
            return
        capture = self._dated_live(frame) if feed.info.live else self._dated_file(frame)
        if not self._writer.write(frame, capture, decode_ns):
            raise _Stopped

    def _dated_live(self, frame: DecodedFrame) -> Capture:
        """By the camera's clock for its event; ages, order and rates are this host's affair."""
        wall_ns, ts_source = frame.arrival_wall_ns, TsSource.ARRIVAL
        camera_ns = frame.camera_ns
        if camera_ns is not None and self._camera_clock.believes(
            camera_ns, frame.arrival_wall_ns, frame.arrival_ns
        ):
            wall_ns, ts_source = camera_ns, TsSource.RTCP
        return Capture(
            media_s=frame.arrival_ns / 1e9,
            wall_ns=wall_ns,
            monotonic_ns=frame.arrival_ns,
            ts_source=ts_source,
            lossless=False,
        )

    def _dated_file(self, frame: DecodedFrame) -> Capture:
        position_s = self._timeline.place(frame.pts_s)
        if self._plan.paced:
            self._sleep(self._timeline.ahead_s(position_s))
        return Capture(
            media_s=position_s,
            wall_ns=self._timeline.wall_ns(position_s),
            monotonic_ns=self._clock.monotonic_ns() if self._plan.paced else frame.arrival_ns,
            ts_source=TsSource.PTS,
            lossless=True,
        )

    def _check_device(self, feed: Feed, decoder: Decoder) -> None:
        """A GPU that fails for good, as one that fell off its bus, leaves the camera to the CPU.

        Not so with a recording, which would begin again.
        """
        if feed.info.live and decoder.device_fails and self._accelerator.in_use:
            self._accelerator.lost("the GPU has ceased to decode")
            raise SourceError(Reason.INVALID_DATA, "the GPU has ceased to decode")

    def _check_stall(self, feed: Feed) -> None:
        """Packets that make no picture are a stall too: a codec that changed, say.

        Damaged keyframes are none, since a line that loses packets is no better after a reconnect.
        """
        silent_s = (self._clock.monotonic_ns() - self._last_sign_ns) / 1e9
        if feed.info.live and silent_s > self._plan.stall_timeout_s:
            raise SourceError(Reason.STALLED, f"no whole frame for {silent_s:.0f} s")

    def _sleep(self, seconds: float) -> None:
        if seconds > 0 and self._clock.wait(self._stop, seconds):
            raise _Stopped

    def _tell_online(self, feed: Feed, frame: DecodedFrame) -> None:
        """What it delivers: at its first frame, and where that changes."""
        width, height = display_size(frame.image)
        report = CameraReport(
            self._plan.id,
            CameraState.ONLINE,
            codec=feed.info.codec,
            width=width,
            height=height,
            fps=feed.info.fps,
            decode=self._accelerator.path_of(feed.stream, frame.image),
            decode_note=self._accelerator.note,
        )
        self._report(report)

    def _tell_of_clock(self, believed: bool, offset_s: float) -> None:
        log = get_logger(camera=self._plan.id)
        if believed:
            log.info("camera_clock_used", offset_s=round(offset_s, 3))
        else:
            limit_s = self._plan.max_clock_offset_s
            log.warning("camera_clock_ignored", offset_s=round(offset_s, 3), limit_s=limit_s)

    def _tell(
        self, state: CameraState, error: SourceError | None = None, retry_in_s: float | None = None
    ) -> None:
        reason, detail = (error.reason, error.detail) if error else (None, "")
        self._report(CameraReport(self._plan.id, state, reason, detail, retry_in_s=retry_in_s))
