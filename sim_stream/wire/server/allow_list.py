"""Which clients may connect: their public keys, in a folder or in one file, read again on change.

Shared by the thread that authenticates and the I/O thread. Knows no sockets.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from pathlib import Path
from typing import TypeAlias

from sim_stream.errors import InvalidInput
from sim_stream.plain_file import read_plain
from sim_stream.wire.keys import FILE_BYTES, PUBLIC_SUFFIX, read_publics

log = logging.getLogger(__name__)

# How long a key that was taken off the list may go on (a request does not look at the disk).
RECHECK_S = 1.0

# Errors of this process or machine, not of a file: no descriptors, no memory, a disk that stutters.
PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EINTR})

# Name, inode, time and size of every file: another one when a key comes, changes or goes.
_Stamp: TypeAlias = tuple[tuple[str, int, int, int], ...]


class AllowList:
    """All ``*.pub`` of a folder, or every public key in a file (``cat *.pub > allowed``).

    In a folder, what cannot be opened or is no regular file (a FIFO, say, which would wait for
    ever) allows nobody, and the log names it. Raises InvalidInput for a path that is not there or
    holds something else. Later, a file that holds something else allows nobody, too.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        if not path.exists():
            raise InvalidInput("allow", path, f"a folder of *{PUBLIC_SUFFIX} files, or a file")
        self._stamp = self._look()
        self._keys = self._read_first()
        self._looked_s = time.monotonic()
        if not self._keys:
            log.warning("%s allows nobody yet: no public key in it", path)

    def __len__(self) -> int:
        return len(self._keys)

    def holds(self, key: str, *, at_once: bool = False) -> bool:
        """``at_once``: by what is on the disk now, not up to ``RECHECK_S`` ago."""
        if at_once or time.monotonic() - self._looked_s > RECHECK_S:
            with self._lock:
                self._refresh()
        return key in self._keys

    def _refresh(self) -> None:
        self._looked_s = time.monotonic()
        try:
            stamp = self._look()
            if stamp == self._stamp:
                return
            keys = self._read()
        except OSError as error:  # no file can be opened any more, say: not the list's doing
            log.error("%s: as it was, for it cannot be read now: %s", self.path, error)
            return
        self._stamp, self._keys = stamp, keys
        log.info("%s: read again, %d keys", self.path, len(keys))

    def _read_first(self) -> frozenset[str]:
        """A mistake in a key is the owner's, who is there at the start. Raises InvalidInput."""
        keys: set[str] = set()
        for file in self._files():
            try:
                keys.update(read_publics("allow", file))
            except InvalidInput as error:
                if file == self.path or _is_readable(file):
                    raise
                log.error("not allowed: %s", error)
        return frozenset(keys)

    def _read(self) -> frozenset[str]:
        """Raises OSError where the process, not the list, is the reason."""
        keys: set[str] = set()
        for file in self._files():
            try:
                keys.update(read_publics("allow", file))
            except InvalidInput as error:
                cause = error.__cause__
                if isinstance(cause, OSError) and cause.errno in PASSING:
                    raise cause from error
                log.error("not allowed: %s", error)
        return frozenset(keys)

    def _files(self) -> list[Path]:
        return sorted(self.path.glob(f"*{PUBLIC_SUFFIX}")) if self.path.is_dir() else [self.path]

    def _look(self) -> _Stamp:
        stamps = []
        for file in self._files():
            try:
                stat = file.stat()
            except OSError:  # gone between the listing and here, or the whole list is
                continue
            stamps.append((str(file), stat.st_ino, stat.st_mtime_ns, stat.st_size))
        return tuple(stamps)


def _is_readable(file: Path) -> bool:
    """Whether it is a file of a list's size that can be read, so that its content is the matter."""
    try:
        read_plain("allow", file, limit=FILE_BYTES)
    except (OSError, InvalidInput):
        return False
    return True
