"""A file that grows piece by piece and stays readable: what is written survives the process.

May keep some disk back, so that on a full disk the last piece still fits. Knows no format.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

RESERVE_BYTES = 16 * 1024


class AppendFile:
    """Appends whole pieces to a new file. Methods raise OSError.

    ``reserve``: how many bytes of the disk are kept back.
    """

    def __init__(self, path: Path, *, reserve: int = RESERVE_BYTES) -> None:
        self.path = path
        self.bytes = 0  # of whole pieces
        self.torn = False  # a piece could not be written; it may lie there half
        # Without a name: it goes with the process, however that ends.
        self._reserve = tempfile.TemporaryFile(dir=path.parent, buffering=0)  # noqa: SIM115
        try:
            _write(self._reserve.fileno(), bytes(reserve))
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except OSError:
            self._reserve.close()
            raise

    def append(self, piece: bytes) -> None:
        self.torn = True
        _write(self._file, piece)
        self.torn = False
        self.bytes += len(piece)

    def make_room(self) -> None:
        """For the last piece: removes a half-written one and gives the disk's reserve back."""
        self._reserve.close()
        os.ftruncate(self._file, self.bytes)
        os.lseek(self._file, self.bytes, os.SEEK_SET)
        self.torn = False

    def close(self) -> None:
        """Idempotent."""
        self._reserve.close()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _write(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]
