"""The records of a spool's files, as bytes; no I/O.

Each is its payload's length (4 bytes, little-endian), the CRC-32 of it (4 bytes), and the payload.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence

HEADER = struct.Struct("<II")
_LARGEST_RECORD = 1 << 20  # as far as damage is looked behind: an event is far smaller


def framed(records: Sequence[bytes]) -> bytes:
    """What stands in a file for `records`."""
    return b"".join(HEADER.pack(len(r), zlib.crc32(r)) + r for r in records)


class Scan:
    """The whole records in `data`.

    Where there is no whole record, the next one is looked for byte by byte: a length may be wrong,
    too. A place that is passed over counts as `damaged` where a record follows it, or where it is
    larger than any record: else it is the torn end of the data.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.damaged = 0

    def __iter__(self) -> Iterator[bytes]:
        at = 0
        while at < len(self._data):
            payload = self._record_at(at)
            if payload is None:
                at = self._next_record(at)
                continue
            yield payload
            at += HEADER.size + len(payload)

    def _record_at(self, at: int) -> bytes | None:
        data = self._data
        if at + HEADER.size > len(data):
            return None
        length, checksum = HEADER.unpack_from(data, at)
        at += HEADER.size
        if not 0 < length <= len(data) - at:
            return None
        payload = data[at : at + length]
        return payload if zlib.crc32(payload) == checksum else None

    def _next_record(self, at: int) -> int:
        """Where the first whole record behind `at` begins; the end of the data where none does."""
        end = len(self._data)
        within = min(end, at + _LARGEST_RECORD)
        found = next((i for i in range(at + 1, within) if self._record_at(i) is not None), end)
        if found < end or end > within:
            self.damaged += 1
        return found
