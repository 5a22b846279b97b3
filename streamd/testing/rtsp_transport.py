"""How RTP and RTCP packets leave the server: within the RTSP connection, or by UDP."""

import re
import socket
from collections.abc import Sequence
from typing import Protocol

HOST = "127.0.0.1"
_INTERLEAVED = re.compile(r"interleaved=(\d+)-(\d+)")
_CLIENT_PORTS = re.compile(r"client_port=(\d+)-(\d+)")


class Transport(Protocol):
    """Where the packets of one client go. Sending raises OSError once the client is gone."""

    header: str  # the Transport header of the answer to SETUP

    def send_rtp(self, packets: Sequence[bytes]) -> None:
        """Send the RTP packets of one access unit."""

    def send_rtcp(self, packet: bytes) -> None:
        """Send one compound RTCP packet."""

    def close(self) -> None:
        """Let go of what was opened for this client."""


def negotiate(
    offered: str, connection: socket.socket, *, tcp_only: bool = False
) -> Transport | None:
    """Return the first transport in a SETUP's Transport header that can be had."""
    for offer in offered.split(","):
        if "RTP/AVP/TCP" in offer:
            found = _INTERLEAVED.search(offer)
            channels = (int(found[1]), int(found[2])) if found else (0, 1)
            return InterleavedTransport(connection, *channels)
        found = _CLIENT_PORTS.search(offer)
        if found and not tcp_only:
            return UdpTransport(connection.getpeername()[0], int(found[1]), int(found[2]))
    return None


class InterleavedTransport:
    """Packets framed into the RTSP connection, RFC 2326 section 10.12."""

    def __init__(self, connection: socket.socket, rtp_channel: int, rtcp_channel: int) -> None:
        self.header = f"RTP/AVP/TCP;unicast;interleaved={rtp_channel}-{rtcp_channel}"
        self._connection = connection
        self._rtp_prefix = bytes((0x24, rtp_channel))
        self._rtcp_prefix = bytes((0x24, rtcp_channel))

    def send_rtp(self, packets: Sequence[bytes]) -> None:
        """Send all packets by one call."""
        prefix = self._rtp_prefix
        parts = [part for packet in packets for part in (prefix, len(packet).to_bytes(2), packet)]
        self._connection.sendall(b"".join(parts))

    def send_rtcp(self, packet: bytes) -> None:
        """Send a packet over the second channel."""
        self._connection.sendall(self._rtcp_prefix + len(packet).to_bytes(2) + packet)

    def close(self) -> None:
        """The connection is its owner's to close."""


class UdpTransport:
    """Packets sent by UDP from a pair of neighbouring ports, RTP from the even one."""

    def __init__(self, host: str, rtp_port: int, rtcp_port: int) -> None:
        self._rtp, self._rtcp = _port_pair()
        self._rtp_address, self._rtcp_address = (host, rtp_port), (host, rtcp_port)
        own = self._rtp.getsockname()[1]
        self.header = (
            f"RTP/AVP;unicast;client_port={rtp_port}-{rtcp_port};server_port={own}-{own + 1}"
        )

    def send_rtp(self, packets: Sequence[bytes]) -> None:
        """Send each packet as a datagram."""
        for packet in packets:
            self._rtp.sendto(packet, self._rtp_address)

    def send_rtcp(self, packet: bytes) -> None:
        """Send a datagram from and to the RTCP port."""
        self._rtcp.sendto(packet, self._rtcp_address)

    def close(self) -> None:
        """Close both ports."""
        self._rtp.close()
        self._rtcp.close()


def _port_pair() -> tuple[socket.socket, socket.socket]:
    for _ in range(100):
        rtp = _bound_udp_socket(0)
        if rtp is None:
            continue
        port = rtp.getsockname()[1]
        rtcp = _bound_udp_socket(port + 1) if port % 2 == 0 else None
        if rtcp is not None:
            return rtp, rtcp
        rtp.close()
    raise OSError("no pair of free UDP ports")


def _bound_udp_socket(port: int) -> socket.socket | None:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        udp.bind((HOST, port))
    except OSError:
        udp.close()
        return None
    return udp
