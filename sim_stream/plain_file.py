"""Reads small files that others may have put there: keys, lists of keys.

Opening a FIFO waits for a writer and a device may do anything, so only regular files are opened,
and never more than a limit is read. Knows no format.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from sim_stream.errors import InvalidInput

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a link",
}


def kind_of(mode: int) -> str:
    """What a file of that ``st_mode`` is, in words; "" for a regular one."""
    return "" if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "no regular file")


def read_plain(
    field: str, path: Path, *, limit: int, follow: bool = True
) -> tuple[bytes, os.stat_result]:
    """All of a regular file of ``limit`` bytes at most, and its status. Never waits.

    ``follow``: a link stands for the file it leads to. Raises OSError where it cannot be opened or
    read, InvalidInput where it is no regular file or longer.
    """
    _require_regular(field, path, path.stat(follow_symlinks=follow))
    # It may be another file by now: not waited for, and looked at again.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | (0 if follow else os.O_NOFOLLOW)
    with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
        status = os.fstat(file.fileno())
        _require_regular(field, path, status)
        content = file.read(limit + 1)
    if len(content) > limit:
        raise InvalidInput(field, f"{path} of more than {limit} bytes", f"{limit} bytes at most")
    return content, status


def _require_regular(field: str, path: Path, status: os.stat_result) -> None:
    """Raises InvalidInput."""
    kind = kind_of(status.st_mode)
    if kind:
        raise InvalidInput(field, f"{path} ({kind})", "a regular file")
