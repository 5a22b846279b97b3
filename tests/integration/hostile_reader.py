"""Reads sources that mean harm, as an ingest worker does; a process of its own may crash.

Its arguments are the number of threads and the time-out of a source in seconds; its input has a
URL or a path a line. It says {"begin": url} before each, and {"end": url, ...} after; last comes
{"rss_mb": the most memory that it had}. Anything but a SourceError ends it.
"""

import json
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any

from streamd.clock import SystemClock
from streamd.config import CameraConfig
from streamd.errors import SourceError
from streamd.ingest.decoder import Decoder
from streamd.ingest.letterbox import FastScaler, Letterbox, display_size
from streamd.ingest.source import source_for
from streamd.slots import InputShape

SHAPE = InputShape(192, 320)
MOST_FRAMES = 60
LONGEST_LOOK_S = 1.5


def read(url: str, timeout_s: float) -> dict[str, Any]:
    """What became of one source."""
    camera = CameraConfig(id="x", url=url, open_timeout_s=timeout_s, stall_timeout_s=timeout_s)
    scaler, frames, damaged, reason, sizes = FastScaler(), 0, 0, "", set()
    until_s = time.monotonic() + LONGEST_LOOK_S
    try:
        feed = source_for(camera).open()
        try:
            decoder = Decoder(feed.stream, SystemClock())
            for picture in feed.pictures():
                decoded = decoder.decode(picture)
                damaged += decoded.damaged
                for frame in decoded.frames:
                    sizes.add(display_size(frame.image))
                    scaler.scale(frame.image, Letterbox.fit(*display_size(frame.image), SHAPE))
                    frames += 1
                if frames > MOST_FRAMES or time.monotonic() > until_s:
                    break
        finally:
            feed.close()
    except SourceError as error:
        reason = str(error)
    return {"frames": frames, "damaged": damaged, "reason": reason, "sizes": sorted(sizes)}


def say(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")  # in one piece, as print would not
    sys.stdout.flush()


def told(url: str, timeout_s: float) -> None:
    say(begin=url)
    began_s = time.monotonic()
    outcome = read(url, timeout_s)
    seconds = time.monotonic() - began_s
    say(end=url, seconds=round(seconds, 3), **outcome)


if __name__ == "__main__":
    with ThreadPoolExecutor(int(sys.argv[1])) as pool:
        list(pool.map(told, [line.strip() for line in sys.stdin], repeat(float(sys.argv[2]))))
    # Not ru_maxrss: that begins with the memory of the process that started this one.
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    rss_mb = int(peak) // 1024
    say(rss_mb=rss_mb)
