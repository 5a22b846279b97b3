"""Opens what a camera's URL names. FFmpeg's demuxers do the work; a source only ever raises.

Nothing here retries: camera.py does, in one place.
"""

import ssl
from dataclasses import dataclass
from typing import Protocol

from streamd.config import CameraConfig
from streamd.config.section import local_path
from streamd.ingest.feed import ContainerFeed, Feed
from streamd.ingest.hwaccel import Accelerator

# Demuxers that read one stream of bytes. Left out are those that open what a file names (hls,
# concat, sdp, dash, ...), terminal art, games: a recording may come from a stranger.
_CONTAINERS = (
    "mov,matroska,mpegts,mpeg,mpegvideo,avi,flv,live_flv,kux,asf,ogg,mxf,gxf,lxf,nut,dv,rm,wtv,"
    "nuv,nsv,pva,dhav,hxvs,ifv,ivf,obu,av1,h264,hevc,vvc,evc,h263,h261,m4v,vc1,cavsvideo,avs2,"
    "avs3,dirac,mjpeg,mjpeg_2000,mpjpeg,smjpeg,yuv4mpegpipe,gif,apng,image2,jpeg_pipe,jpegls_pipe,"
    "jpegxl_pipe,j2k_pipe,png_pipe,bmp_pipe,webp_pipe,tiff_pipe,gif_pipe,ppm_pipe,pgm_pipe,"
    "pbm_pipe,pam_pipe,exr_pipe,qoi_pipe"
)
# HLS may carry sound and subtitles beside the picture.
_HTTP_FORMATS = f"{_CONTAINERS},hls,aac,ac3,eac3,mp3,webvtt"
# Of MPEG-TS: an encoder that starts anew goes on in the stream that is read, not in one beside it.
_ONE_VIDEO = {"merge_pmt_versions": "1"}


class Source(Protocol):
    """Something that can be opened, again and again."""

    def open(self) -> Feed:
        """Connects and finds the video stream. Raises SourceError."""
        ...


def source_for(camera: CameraConfig, accelerator: Accelerator | None = None) -> Source:
    """The source that `camera.url` names; decoded on the CPU without an `accelerator`."""
    accelerator = accelerator or Accelerator()
    if camera.is_local_file:
        return FileSource(camera, accelerator)
    rtsp = camera.url.startswith(("rtsp://", "rtsps://"))
    return RtspSource(camera, accelerator) if rtsp else HttpSource(camera, accelerator)


@dataclass(frozen=True, slots=True)
class RtspSource:
    """A camera or recorder that speaks RTSP (RFC 2326), over TCP or UDP, also through TLS."""

    camera: CameraConfig
    accelerator: Accelerator

    def open(self) -> Feed:
        """See Source."""
        options = {
            "rtsp_transport": self.camera.transport,
            "allowed_media_types": "video",
            # FFmpeg's parser would hold each picture back until the next one: see access_units.py.
            "fflags": "noparse",
            # The SDP and the bitstream's own headers suffice: no second of default probing.
            "probesize": "5000",
            "analyzeduration": "100000",
            # Where a server's answers may lead: never to a file.
            "protocol_whitelist": "tcp,tls,udp,rtp,srtp",
            "format_whitelist": "rtsp",
            **_tls_options(self.camera),
        }
        return ContainerFeed.open(
            self.camera, self.camera.url, options, self.accelerator, live=True
        )


@dataclass(frozen=True, slots=True)
class HttpSource:
    """MJPEG, MPEG-TS, HLS, ... or a plain file over HTTP; feed.py tells which is live."""

    camera: CameraConfig
    accelerator: Accelerator

    def open(self) -> Feed:
        """See Source."""
        timeout_us = str(int(self.camera.stall_timeout_s * 1e6))
        options = {
            "timeout": timeout_us,
            "protocol_whitelist": "http,https,httpproxy,tcp,tls,crypto",
            "format_whitelist": _HTTP_FORMATS,
            # Of a live stream the newest segment is the first that is read.
            "live_start_index": "-1",
            **_ONE_VIDEO,
            **_tls_options(self.camera),
        }
        return ContainerFeed.open(
            self.camera, self.camera.url, options, self.accelerator, live=None
        )


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file of this machine."""

    camera: CameraConfig
    accelerator: Accelerator

    def open(self) -> Feed:
        """See Source."""
        # "file:" keeps FFmpeg from taking a path for one of its protocols, such as concat:.
        path = f"file:{local_path(self.camera.url)}"
        options = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS, **_ONE_VIDEO}
        return ContainerFeed.open(self.camera, path, options, self.accelerator, live=False)


def _tls_options(camera: CameraConfig) -> dict[str, str]:
    if not camera.tls_verify:
        return {}
    authorities = ssl.get_default_verify_paths().cafile
    return {"tls_verify": "1"} | ({"ca_file": authorities} if authorities else {})
