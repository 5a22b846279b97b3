"""A camera behind a network of its own: run within a namespace, prints its RTSP port.

    ip netns exec NAME python netns_camera.py ADDRESS CLIP

It ends when its standard input does.
"""

import sys

from streamd.testing.rtsp_server import RtspServer
from streamd.testing.tcp_proxy import TcpProxy


def main(address: str, clip: str) -> None:
    with RtspServer() as server, TcpProxy(server.port, address) as proxy:
        server.mount("/gate", clip)
        print(proxy.port, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
