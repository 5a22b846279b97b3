"""From a camera's whole frames to its slots: what is kept, scaled, and may overflow."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from streamd.errors import Reason, SourceError
from streamd.ingest.decoder import DecodedFrame
from streamd.ingest.letterbox import Letterbox, Scaler, display_size
from streamd.ingest.motion import MotionGate
from streamd.ingest.rate_cap import RateCap, phase_of
from streamd.ingest.space import Space
from streamd.ledger import Ledger
from streamd.slots import FrameMeta, InputShape, Ring, SlotPool, TsSource

# Frames of which no result is known, so that there is none to repeat.
_ASTRAY = ("shed", "lost_inference", "unknown")
_SCALER_ERRORS = (OSError, ValueError)  # what PyAV raises for formats that swscale does not read


@dataclass(frozen=True, slots=True)
class Capture:
    """When a frame was captured: `media_s` for the rate cap, `wall_ns` (epoch) for its event.

    `monotonic_ns` is what latencies count from. A `lossless` frame waits for a slot.
    """

    media_s: float
    wall_ns: int
    monotonic_ns: int
    ts_source: TsSource
    lossless: bool


@dataclass(frozen=True, slots=True)
class Begun:
    """When a recording was first begun (epoch, monotonic), and how many frames of it were taken."""

    wall_ns: int
    monotonic_ns: int
    frames: int


@dataclass(frozen=True, slots=True)
class SlotRing:
    """A camera's share of the pool, as its writer needs it.

    A picture takes the one of `shapes` that suits its aspect. `on_ready` wakes the inference
    worker.
    """

    pool: SlotPool
    ring: Ring
    shapes: tuple[InputShape, ...]
    on_ready: Callable[[], None]
    space: Space


class SlotWriter:
    """Writes one camera's frames; each ends in one outcome of the ledger.

    Live frames never wait: with no slot free, the newest is dropped (the reader replaces older
    ones, so this happens only while it does not run). A file's frames wait and are never dropped.
    """

    def __init__(
        self,
        *,
        camera: int,
        session: int,
        slots: SlotRing,
        ledger: Ledger,
        scaler: Scaler,
        fps: float | None,
        motion: MotionGate | None = None,
    ) -> None:
        self._camera = camera
        self._session = session
        self._slots = slots
        self._ledger = ledger
        self._scaler = scaler
        self._cap = RateCap(fps, phase_of(camera))
        self._motion = motion
        self._went_astray = 0
        self._seq = 0
        self._box: Letterbox | None = None
        self._painted: dict[int, Letterbox] = {}

    def begin_recording(self, wall_ns: int, monotonic_ns: int) -> Begun:
        """What is known of a recording that is opened now: its reader may not be the first one.

        Frames are counted as they come out whole; what a dead reader held was not taken.
        """
        ledger, camera = self._ledger, self._camera
        if not ledger.get(camera, "began_ns"):
            ledger.set(camera, "began_wall_ns", wall_ns)
            ledger.set(camera, "began_ns", monotonic_ns)
        lost = ledger.get(camera, "lost_ingest")
        ledger.set(camera, "read_again", lost)
        self._seq = ledger.get(camera, "captured") - lost
        return Begun(
            ledger.get(camera, "began_wall_ns"),
            ledger.get(camera, "began_ns"),
            self._seq - ledger.get(camera, "decode_error"),
        )

    def pass_over(self, media_s: float) -> None:
        """A frame of a recording that an earlier reader took: only the rate cap hears of it."""
        self._cap.admits(media_s)

    def count_decoding(self, cpu_ns: int, damaged: int) -> None:
        """Books the work on one packet, and the frames of it that could not be decoded whole."""
        self._ledger.add(self._camera, "decode_cpu_ns", cpu_ns)
        if damaged:
            self._seq += damaged
            self._ledger.add(self._camera, "captured", damaged)
            self._ledger.add(self._camera, "decode_error", damaged)

    def wants(self, now_ns: int) -> bool:
        """Whether the cap has room for a live frame that comes now (CLOCK_MONOTONIC)."""
        return self._cap.would_admit(now_ns / 1e9)

    def count_skipped(self, now_ns: int) -> None:
        """Books a frame that the rate cap would drop, and that is not even decoded."""
        self._seq += 1
        self._ledger.add(self._camera, "captured")
        self._ledger.set(self._camera, "last_frame_ns", now_ns)
        self._ledger.add(self._camera, "rate_capped")

    def write(self, frame: DecodedFrame, capture: Capture, work_ns: int) -> bool:
        """Takes one frame to its outcome. False if the worker was stopped while it waited.

        Raises SourceError where its pixel format is one that cannot be scaled.
        """
        seq, self._seq = self._seq, self._seq + 1
        self._ledger.add(self._camera, "captured")
        self._ledger.set(self._camera, "last_frame_ns", capture.monotonic_ns)
        came_s = None if capture.lossless else capture.monotonic_ns / 1e9
        if not self._cap.admits(capture.media_s, came_s):
            self._ledger.add(self._camera, "rate_capped")
            return True
        still = self._is_still(frame, capture)
        slot = self._free_slot(capture.lossless)
        if slot is None:
            self._ledger.add(self._camera, "ring_full")
            return not capture.lossless
        scale_began = time.monotonic_ns()
        box = self._box_of(frame)
        if not still:
            self._fill(slot, frame, box)
        ready_ns = time.monotonic_ns()
        meta = FrameMeta(
            camera=self._camera,
            session=self._session,
            seq=seq,
            pts_s=math.nan if frame.pts_s is None else frame.pts_s,
            capture_wall_ns=capture.wall_ns,
            capture_ns=capture.monotonic_ns,
            ready_ns=ready_ns,
            work_ns=work_ns + ready_ns - scale_began,
            ts_source=capture.ts_source,
            lossless=capture.lossless,
            width=box.width,
            height=box.height,
            shape_height=box.shape.height,
            shape_width=box.shape.width,
            scale=box.scale,
            pad_x=box.pad_x,
            pad_y=box.pad_y,
            still=still,
        )
        self._slots.pool.submit(slot, meta)
        self._slots.on_ready()
        if self._motion is not None and not still:
            self._motion.inferred()
        return True

    def _is_still(self, frame: DecodedFrame, capture: Capture) -> bool:
        """Whether the result of the last inferred frame holds for this one."""
        if self._motion is None:
            return False
        astray = sum(self._ledger.get(self._camera, name) for name in _ASTRAY)
        if astray != self._went_astray:
            self._went_astray = astray
            self._motion.forget()
        try:
            return self._motion.is_still(frame.image, capture.media_s)
        except _SCALER_ERRORS:
            raise self._refused(frame) from None

    def _free_slot(self, lossless: bool) -> int | None:
        pool, ring, space = self._slots.pool, self._slots.ring, self._slots.space
        if not lossless:
            return pool.free_slot(ring)
        while True:
            ticket = space.ticket()
            slot = pool.free_slot(ring)
            if slot is not None or not space.wait(ticket):
                return slot

    def _box_of(self, frame: DecodedFrame) -> Letterbox:
        width, height = display_size(frame.image)
        box = self._box
        if box is None or (box.width, box.height) != (width, height):
            box = self._box = Letterbox.best(width, height, self._slots.shapes)
        return box

    def _fill(self, slot: int, frame: DecodedFrame, box: Letterbox) -> None:
        """Scales `frame` into `slot`; the padding is painted only where its place changed."""
        began = time.thread_time_ns()
        image = self._slots.pool.image(slot, box.shape)
        if self._painted.get(slot) != box:
            box.paint_padding(image)
            self._painted[slot] = box
        try:
            picture = self._scaler.scale(frame.image, box)
        except _SCALER_ERRORS:
            raise self._refused(frame) from None
        scaled = time.thread_time_ns()
        box.inner(image)[...] = picture
        self._ledger.add(self._camera, "scale_cpu_ns", scaled - began)
        self._ledger.add(self._camera, "copy_cpu_ns", time.thread_time_ns() - scaled)
        self._ledger.add(self._camera, "scaled")

    def _refused(self, frame: DecodedFrame) -> SourceError:
        """Books `frame` as one that cannot be used, and says why its source cannot."""
        self._ledger.add(self._camera, "decode_error")
        name = frame.image.format.name
        return SourceError(Reason.CODEC_UNSUPPORTED, f"has pictures of pixel format {name}")
