"""Cameras that mean harm: scripts on real sockets, and a proxy that damages what passes it."""

import itertools
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from .hostile import mutated

Serve = Callable[[socket.socket], None]
_NOISE = random.Random(5).randbytes(65536)


@contextmanager
def listening(serve: Serve) -> Iterator[int]:
    """Runs `serve` on each connection, in a thread of its own; yields the port."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        open_: list[socket.socket] = []
        threads: list[threading.Thread] = []

        def handle(client: socket.socket) -> None:
            with client, suppress(OSError):
                serve(client)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    open_.append(client)
                    threads.append(threading.Thread(target=handle, args=(client,), daemon=True))
                    threads[-1].start()

        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            for side in (listener, *open_):
                with suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for thread in threads:
                thread.join(5)


def damaging(target: int, seed: str) -> Serve:
    """Passes on to the port `target` and back; some of what comes back is damaged, or the end."""
    counter = itertools.count()

    def serve(client: socket.socket) -> None:
        rng = random.Random(f"{seed} {next(counter)}")
        with socket.create_connection(("127.0.0.1", target)) as inner:
            there = threading.Thread(target=_copy, args=(client, inner), daemon=True)
            there.start()
            with suppress(OSError):
                while data := inner.recv(65536):
                    if rng.random() < 0.02:
                        break
                    client.sendall(mutated(data, rng) if rng.random() < 0.15 else data)
            for side in (client, inner):
                with suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)
            there.join()

    return serve


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


def _request(client: socket.socket) -> tuple[str, str]:
    """Method and CSeq of the next request; OSError at the end."""
    head = b""
    while b"\r\n\r\n" not in head:
        data = client.recv(65536)
        if not data:
            raise OSError
        head += data
    number = re.search(rb"CSeq: *(\d+)", head)
    return head.split(b" ", 1)[0].decode(errors="replace"), number[1].decode() if number else "1"


def _for_ever(client: socket.socket, *, begin: bytes, again: bytes) -> None:
    client.sendall(begin)
    while True:
        client.sendall(again)


def replying(begin: bytes, again: bytes = b"") -> Serve:
    """Answers each request with `begin`, and then `again` without end (b"": nothing)."""

    def serve(client: socket.socket) -> None:
        while True:
            _, number = _request(client)
            answer = begin.replace(b"CSEQ", number.encode())
            if again:
                _for_ever(client, begin=answer, again=again)
            client.sendall(answer)

    return serve


SDP = (
    b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\na=control:*\r\n"
    b"m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
    b"a=fmtp:96 packetization-mode=1;sprop-parameter-sets=Z0IAKeKQFAe2AtwEBAaQeJEV,aM48gA==\r\n"
    b"a=control:track0\r\n"
)


def camera(sdp: bytes, stream: Callable[[socket.socket], None], describe: bytes = b"") -> Serve:
    """An RTSP camera with this SDP; `stream` sends after PLAY."""

    def serve(client: socket.socket) -> None:
        while True:
            method, number = _request(client)
            extra, body = b"", b""
            if method == "DESCRIBE" and describe:
                client.sendall(describe.replace(b"CSEQ", number.encode()))
                continue
            if method == "DESCRIBE":
                extra, body = b"Content-Type: application/sdp\r\n", sdp
            if method == "SETUP":
                extra = b"Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
            head = f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\nContent-Length: {len(body)}\r\n"
            client.sendall(head.encode() + extra + b"\r\n" + body)
            if method == "PLAY":
                stream(client)

    return serve


def _rtp(sequence: int, payload: bytes, stamp: int = 0) -> bytes:
    packet = struct.pack(">BBHII", 0x80, 96, sequence & 0xFFFF, stamp & 0xFFFFFFFF, 7) + payload
    return b"$\0" + struct.pack(">H", len(packet)) + packet


def random_rtp(seed: str) -> Callable[[socket.socket], None]:
    """Packets of noise, most behind a true RTP header, at full speed for a second."""

    def stream(client: socket.socket) -> None:
        rng = random.Random(seed)
        until_s = time.monotonic() + 1
        for sequence in itertools.count():
            size = rng.choice((0, 1, 2, 5, 100, 1400, 60000))
            noise = rng.randbytes(size)
            channel = struct.pack(">BBH", 0x24, rng.choice((0, 1, 2, 255)), size)
            client.sendall(_rtp(sequence, noise) if rng.random() < 0.8 else channel + noise)
            if time.monotonic() > until_s:
                return

    return stream


def endless_fragments(client: socket.socket) -> None:
    """Fragments (FU-A) of one picture that never ends."""
    client.sendall(_rtp(0, b"\x7c\x85" + _NOISE[:1400]))
    for sequence in itertools.count(1):
        client.sendall(_rtp(sequence, b"\x7c\x05" + _NOISE[:60000]))


def rtsp_scripts(seed: str) -> dict[str, Serve]:
    """Harmful RTSP servers by name."""
    ok = b"RTSP/1.0 200 OK\r\nCSeq: CSEQ\r\n"
    rng = random.Random(seed)
    moved = b"RTSP/1.0 302 Found\r\nCSeq: CSEQ\r\nLocation: %s\r\n\r\n"
    scripts = {
        "noise": replying(_NOISE[:1000], _NOISE),
        "endless-head": replying(ok, b"X-Header: value\r\n"),
        "endless-line": replying(ok, b"x" * 1000),
        "huge-body": replying(ok + b"Content-Length: 2147483647\r\n\r\n", bytes(65536)),
        "negative-body": replying(ok + b"Content-Length: -1\r\n\r\n"),
        "overflowing-body": replying(ok + b"Content-Length: 99999999999999999999\r\n\r\n"),
        "no-end": replying(b"RTSP/1.0 "),
        "interleaved-only": replying(b"", b"$\0\xff\xff" + bytes(65535)),
        "moved-to-file": camera(SDP, endless_fragments, moved % b"file:///etc/passwd"),
        "moved-to-path": camera(SDP, endless_fragments, moved % b"/etc/passwd"),
        "fragments": camera(SDP, endless_fragments),
        "random-rtp": camera(SDP, random_rtp(seed)),
        "many-streams": camera(SDP + SDP[SDP.index(b"m=") :] * 2000, random_rtp(seed)),
        "long-sdp": camera(SDP + b"a=x:" + b"y" * 500_000 + b"\r\n", random_rtp(seed)),
    }
    for number in range(6):
        scripts[f"sdp-{number}"] = camera(mutated(SDP, rng), random_rtp(f"{seed} {number}"))
    return scripts


def http_scripts() -> dict[str, Serve]:
    """Harmful HTTP servers by name."""
    ok = b"HTTP/1.1 200 OK\r\n"
    part = b"--x\r\nContent-Type: image/jpeg\r\n"
    multipart = ok + b"Content-Type: multipart/x-mixed-replace; boundary=x\r\n\r\n"
    playlist = ok + b"Content-Type: application/vnd.apple.mpegurl\r\n"
    listed = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n%s\n#EXT-X-ENDLIST\n"
    whole = b"Content-Length: %d\r\n\r\n"

    def list_of(entry: bytes) -> Serve:
        body = listed % entry
        return replying(playlist + whole % len(body) + body)

    return {
        "noise": replying(_NOISE[:1000], _NOISE),
        "endless-head": replying(ok, b"X-Header: value\r\n"),
        "endless-line": replying(ok, b"x" * 1000),
        "endless-noise": replying(ok + b"\r\n", _NOISE),
        "endless-zeros": replying(ok + b"\r\n", bytes(65536)),
        "endless-part": replying(multipart + part + b"\r\n\xff\xd8", bytes(65536)),
        "huge-part": replying(
            multipart + part + b"Content-Length: 2147483647\r\n\r\n\xff\xd8", bytes(65536)
        ),
        "negative-part": replying(multipart + part + b"Content-Length: -5\r\n\r\n", b"x"),
        "endless-playlist": replying(playlist + b"\r\n#EXTM3U\n", b"#EXTINF:1,\na.ts\n" * 4000),
        "list-of-itself": list_of(b"a.m3u8"),
        "list-of-nothing": list_of(b""),
        "bad-chunks": replying(ok + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFF\r\n", b"x" * 99),
        "moved-round": replying(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"),
        "short": replying(ok + b"Content-Length: 1000000\r\n\r\n\0\0\0\x18ftypmp42"),
    }


@contextmanager
def addresses(scheme: str, scripts: dict[str, Serve], path: str = "/a.m3u8") -> Iterator[list[str]]:
    """URLs of running servers, one a script; the script's name is in the query."""
    with ExitStack() as stack:
        ports = {name: stack.enter_context(listening(serve)) for name, serve in scripts.items()}
        yield [f"{scheme}://127.0.0.1:{port}{path}?{name}" for name, port in ports.items()]
