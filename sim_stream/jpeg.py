"""Whether a JPEG file is whole: its segments followed to the end marker. Decodes nothing.

Decoders paint what is missing grey or green and call that a picture. Of a progressive one a scan
may be missing without a trace but this.
"""

from __future__ import annotations

import re

START, END, SCAN = 0xD8, 0xD9, 0xDA
ALONE = frozenset({0x01, START, *range(0xD0, 0xD8)})  # markers without a length
# Within a scan 0xff is stuffed with 00, and restart markers (d0 to d7) are part of it.
_AFTER_SCAN = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")


def cut_short(data: bytes) -> bool:
    """True for a JPEG without its end, or with a segment that reaches beyond the file."""
    at = 2 if data[:2] == b"\xff\xd8" else len(data)
    while True:
        marker = _marker_at(data, at)
        if marker is None:
            return True
        code, at = marker
        if code == END:
            return False
        if code in ALONE:
            continue
        if at + 2 > len(data):
            return True
        at += max(2, int.from_bytes(data[at : at + 2], "big"))
        if code == SCAN:
            found = _AFTER_SCAN.search(data, at)
            if found is None:
                return True
            at = found.start()


def _marker_at(data: bytes, at: int) -> tuple[int, int] | None:
    """(code, where it ends) of the marker at or after ``at``; bytes in between are skipped."""
    at = data.find(b"\xff", at)
    while 0 <= at < len(data) - 1:
        if data[at + 1] == 0xFF:
            at += 1  # fill
        elif data[at + 1] == 0x00:
            at = data.find(b"\xff", at + 2)
        else:
            return data[at + 1], at + 2
    return None
