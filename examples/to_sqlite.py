"""Keeps every object in a SQLite file; goes on where it stopped, also after a crash.

python examples/to_sqlite.py events.db
sqlite3 events.db "SELECT camera, label, count(*) FROM objects GROUP BY 1, 2"
"""

import argparse
import sqlite3
from contextlib import suppress

from streamd.client import Subscriber

SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
    event TEXT, number INTEGER, camera TEXT, ts INTEGER, label TEXT, confidence REAL,
    x1 REAL, y1 REAL, x2 REAL, y2 REAL, PRIMARY KEY (event, number)
)
"""


def main() -> None:
    """Runs until it is interrupted. An event that comes again replaces itself."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("file")
    options.add_argument("--redis", default="redis://localhost:6379/0")
    options.add_argument("--group", default="sqlite", help="remembers in Redis what was kept")
    asked = options.parse_args()
    database = sqlite3.connect(asked.file)
    database.execute(SCHEMA)
    # Named after its file: what it was working on in a crash comes again at once.
    consumer = asked.file
    for event in Subscriber(asked.redis, group=asked.group, consumer=consumer, start="0"):
        rows = [
            (event.id, n, event.camera, event.ts, item.label, item.confidence, *item.box)
            for n, item in enumerate(event.data.objects)
        ]
        with database:  # committed before the event is acknowledged
            database.executemany(
                "INSERT OR REPLACE INTO objects VALUES (?,?,?,?,?,?,?,?,?,?)", rows
            )


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
