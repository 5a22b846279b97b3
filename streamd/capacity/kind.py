"""Kinds of cameras, as one writes them: 1080p25, 4k15, 640x480@10."""

import re
from dataclasses import dataclass

from streamd.errors import SetupError

_NAMES = {
    "4k": (3840, 2160),
    "2160p": (3840, 2160),
    "1440p": (2560, 1440),
    "1080p": (1920, 1080),
    "720p": (1280, 720),
    "480p": (854, 480),
    "360p": (640, 360),
}
_PATTERN = re.compile(r"(?P<name>4k|\d+p|\d+x\d+@?)(?P<fps>\d+(\.\d+)?)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class CameraKind:
    """Size in pixels and frames a second that a camera sends."""

    name: str
    width: int
    height: int
    fps: float

    @classmethod
    def parse(cls, text: str) -> "CameraKind":
        """Raises SetupError for what names no kind; 25 frames a second unless told."""
        match = _PATTERN.fullmatch(text.strip())
        size = _size(match["name"].lower()) if match else None
        fps = float(match["fps"] or 25) if match else 0.0
        if size is None or not 0 < fps <= 120 or not all(16 <= side <= 8192 for side in size):
            raise SetupError(
                f"--camera {text}: no kind of camera; such are 1080p25, 720p, 4k15, 640x480@10"
            )
        return cls(text.strip(), *size, fps)


def _size(name: str) -> tuple[int, int] | None:
    if "x" in name:
        width, height = name.rstrip("@").split("x")
        return int(width), int(height)
    return _NAMES.get(name)
