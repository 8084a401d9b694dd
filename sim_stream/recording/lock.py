"""One server at a time records into a folder: two would each go on with the other's sessions.

The lock is the kernel's (``flock``): it goes with the process that holds it, however that ends, and
says nothing to those who only read. Its file stays and is empty, so that it takes no disk.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from sim_stream.errors import InvalidInput
from sim_stream.plain_file import kind_of

LOCK_FILE = "server.lock"


class FolderLock:
    """Held from construction until ``release``, or the process's end.

    Raises InvalidInput where another server holds it (naming its pid, where the kernel tells), or
    the folder's file system has no locks; OSError where the lock's file cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / LOCK_FILE
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            self._file = os.open(path, flags, 0o644)
        except OSError as error:  # a link, a folder, or nothing that may be written
            raise OSError(error.errno, f"{LOCK_FILE}: {error.strerror}") from error
        try:
            kind = kind_of(os.fstat(self._file).st_mode)
            if kind:
                raise InvalidInput("record", f"{path} ({kind})", "a regular file, or none")
            _lock(self._file, folder)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _lock(file: int, folder: Path) -> None:
    """Raises InvalidInput."""
    if sys.platform == "win32":
        raise InvalidInput("record", folder, "on this system, nothing: it has no flock")
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise InvalidInput(
                "record",
                f"{folder}, into which {_holder(file)} records",
                "a folder that no other server has; stop that one first",
            ) from error
        raise InvalidInput(
            "record",
            f"{folder} ({LOCK_FILE} cannot be locked: {error.strerror})",
            "a folder on a file system with locks, so that two servers never share it",
        ) from error


def _holder(file: int) -> str:
    """Who has that file locked, as Linux tells it."""
    inode = os.fstat(file).st_ino
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:  # 37: FLOCK  ADVISORY  WRITE 338 fe:00:2146351 0 EOF
        fields = line.split()
        if "FLOCK" not in fields or len(fields) < 6:
            continue
        pid, place = fields[-4:-2]
        if int(place.rpartition(":")[2] or 0) == inode and int(pid) > 0:
            return f"the server with pid {pid}"
    return "another server"
