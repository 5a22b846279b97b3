"""Posts events as JSON to a URL; what could not be posted is tried again.

python examples/webhook.py https://example.org/hook --label person
"""

import argparse
import json
import time
import urllib.request
from contextlib import suppress
from http.client import HTTPException

import msgspec

from streamd.client import Event, Subscriber


def main() -> None:
    """Runs until it is interrupted. The other side may see an event twice, with the same id."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("url")
    options.add_argument("--redis", default="redis://localhost:6379/0")
    options.add_argument("--label", action="append", help="only events with one of these")
    options.add_argument("--group", default="webhook", help="remembers in Redis what was posted")
    asked = options.parse_args()
    for event in Subscriber(asked.redis, group=asked.group, labels=asked.label, start="0"):
        wait_s = 1.0
        while not post(asked.url, event):
            time.sleep(wait_s)
            wait_s = min(60.0, 2 * wait_s)


def post(url: str, event: Event) -> bool:
    """Whether the other side took it."""
    body = json.dumps(msgspec.to_builtins(event)).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10):
            return True
    except (OSError, HTTPException) as error:
        print(f"{url}: {error}", flush=True)
        return False


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
