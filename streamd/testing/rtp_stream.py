"""The RTP stream of one client: which picture is due when, its packets and its faults."""

from random import Random

from streamd.clock import Clock
from streamd.testing import rtp
from streamd.testing.rtsp_mount import Mount
from streamd.testing.rtsp_transport import Transport

_REPORT_INTERVAL_S = 1.0
_STALL_POLL_S = 0.02
# A client further behind than this is not sent the backlog in one burst; its time shifts.
_MAX_LATE_S = 0.5


class RtpStream:
    """Plays a mount's footage to one transport at the pace of the clip.

    All times are monotonic seconds of `clock`. An RTP timestamp stands for the moment of capture
    on that clock, so timestamps go on over loops, replaced clips and stalls.
    """

    def __init__(self, mount: Mount, transport: Transport, random: Random, clock: Clock) -> None:
        self.sequence = random.getrandbits(16)
        self.first_timestamp = random.getrandbits(32)
        self._mount = mount
        self._transport = transport
        self._random = random
        self._clock = clock
        self._ssrc = random.getrandbits(32)
        self._footage = mount.footage
        self._index = 0  # of the next access unit in the clip
        self._count = 0  # of pictures since PLAY
        self._packets = self._octets = 0
        self._started = self._pass_started = self._report_due = self._now_s()
        self._wall_offset = clock.time_ns() / 1e9 - self._started
        self.ended = False

    def wait_s(self) -> float | None:
        """Return in how many seconds `send_due` wants to be called, None for never again."""
        if self.ended:
            return None
        return max(_STALL_POLL_S if self._mount.stall else 0.0, self._due() - self._now_s())

    def send_due(self) -> None:
        """Send the next picture if its time has come. Raises OSError if the client is gone."""
        late = self._now_s() - self._due()
        if self.ended or late < 0:
            return
        if self._mount.stall or (late > _MAX_LATE_S and not self._mount.catch_up):
            self._pass_started += late
        if self._mount.stall:
            return
        if self._index == len(self._footage.clip.units):
            self._end()
            return
        self._send_report_if_due()
        self._send_picture()
        self._advance()

    def _now_s(self) -> float:
        return self._clock.monotonic_ns() / 1e9

    def _due(self) -> float:
        clip = self._footage.clip
        in_pass = self._index < len(clip.units)
        return self._pass_started + (clip.units[self._index].due_s if in_pass else clip.duration_s)

    def _advance(self) -> None:
        self._index += 1
        self._count += 1
        is_replaced = self._footage is not self._mount.footage
        is_over = self._index == len(self._footage.clip.units)
        if is_replaced or (is_over and self._mount.loop):
            self._pass_started = self._due()
            self._index = 0
            self._footage = self._mount.footage

    def _send_picture(self) -> None:
        captured = self._due() + self._footage.clip.units[self._index].shift_s
        self._transport.send_rtp(self._damaged(self._picture_packets(captured)))
        if self._mount.on_frame is not None:
            self._mount.on_frame(self._count, captured + self._wall_offset)

    def _picture_packets(self, captured: float) -> list[bytes]:
        payloads = self._footage.payloads[self._index]
        kind = rtp.payload_type(self._footage.clip.codec)
        timestamp = self._timestamp(captured)
        packets = []
        for number, payload in enumerate(payloads, start=1):
            last = number == len(payloads)
            header = rtp.rtp_header(kind, self.sequence, timestamp, self._ssrc, marker=last)
            packets.append(header + payload)
            self.sequence = (self.sequence + 1) & 0xFFFF
        self._packets += len(payloads)
        self._octets += sum(map(len, payloads))
        return packets

    def _damaged(self, packets: list[bytes]) -> list[bytes]:
        """Return the packets after the mount's loss and corruption."""
        drop, corrupt, random = self._mount.drop, self._mount.corrupt, self._random.random
        if drop:
            packets = [packet for packet in packets if random() >= drop]
        if corrupt:
            packets = [self._flipped(item) if random() < corrupt else item for item in packets]
        return packets

    def _flipped(self, packet: bytes) -> bytes:
        """Flip bits of the payload; with a broken RTP header the packet would just be lost."""
        flipped = bytearray(packet)
        for _ in range(8):
            flipped[self._random.randrange(12, len(packet))] ^= 1 << self._random.randrange(8)
        return bytes(flipped)

    def _send_report_if_due(self) -> None:
        now = self._now_s()
        if now < self._report_due or not self._mount.sender_reports:
            return
        self._report_due = now + _REPORT_INTERVAL_S
        self._transport.send_rtcp(self._report(now))

    def _report(self, now: float) -> bytes:
        wall_s = now + self._wall_offset + self._mount.clock_offset_s
        timestamp = self._timestamp(now)
        return rtp.sender_report(self._ssrc, wall_s, timestamp, self._packets, self._octets)

    def _end(self) -> None:
        self.ended = True
        self._transport.send_rtcp(self._report(self._now_s()) + rtp.goodbye(self._ssrc))

    def _timestamp(self, moment: float) -> int:
        media_s = (moment - self._started) * self._mount.timestamp_rate
        ticks = round((media_s + self._mount.timestamp_jump_s) * rtp.CLOCK_HZ)
        return (self.first_timestamp + ticks) & 0xFFFFFFFF
