"""tux's checkpoint stream: msgpack pairs (key tuple, flax's bytes), end to end (models.md part 3).

A library would decode a value of three gigabytes whole, twice, and could not say where it stopped.
Here the file is memory-mapped, an index of shapes and byte ranges is made first, and ranges are
copied out as they are asked for. Only what such a file holds is understood, so nothing nests, and
no length is believed before it was found to lie within the file. Knows nothing of models.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sim_stream.errors import CheckpointError, SimStreamError
from sim_stream.files import open_regular
from sim_stream.models.formats.source import Shape

# What a checkpoint of ours can need, generously: a hostile file is refused before it costs memory.
MAX_ENTRIES, MAX_KEY_PARTS, MAX_TEXT_BYTES, MAX_DIMS, MAX_CHUNKS = 10_000, 16, 256, 8, 1024
NDARRAY = 1  # flax's extension type of an array
CHUNKED = "__msgpack_chunked_array__"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# First byte -> (family, bytes of the length or value that follow).
_SIZED = {
    **{0xC4: ("bin", 1), 0xC5: ("bin", 2), 0xC6: ("bin", 4)},
    **{0xC7: ("ext", 1), 0xC8: ("ext", 2), 0xC9: ("ext", 4)},
    **{0xCC: ("uint", 1), 0xCD: ("uint", 2), 0xCE: ("uint", 4), 0xCF: ("uint", 8)},
    **{0xD9: ("str", 1), 0xDA: ("str", 2), 0xDB: ("str", 4)},
    **{0xDC: ("array", 2), 0xDD: ("array", 4), 0xDE: ("map", 2), 0xDF: ("map", 4)},
}
_FIXED_EXT = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}


class Fault(SimStreamError):
    """Something at a byte that is no checkpoint stream."""

    def __init__(self, offset: int, message: str) -> None:
        super().__init__(message)
        self.offset = offset


class Stored(NamedTuple):
    """An array in the file: its bytes, in C order, are those of `spans` (start, stop) in turn."""

    shape: Shape
    dtype: torch.dtype
    spans: tuple[tuple[int, int], ...]


class Cursor:
    """Reads msgpack headers between two bytes of a buffer; blobs are skipped, not read."""

    def __init__(self, data: mmap.mmap, at: int, end: int) -> None:
        self.data, self.at, self.end = data, at, end

    def take(self, *families: str) -> tuple[str, int]:
        """The next header, of one of these families, and its length or value."""
        offset = self.at
        family, value = self._header(self._bytes(1)[0])
        if family not in families:
            raise Fault(offset, f"{family} where {' or '.join(families)} belongs")
        if family in ("bin", "str", "ext") and value > self.end - self.at:
            left = self.end - self.at
            raise Fault(offset, f"{value:,} bytes announced, {left:,} left: cut off or damaged")
        return family, value

    def count(self, family: str, most: int) -> int:
        offset, (_, n) = self.at, self.take(family)
        if n > most:
            raise Fault(offset, f"{family} of {n:,}; {most:,} at most")
        return n

    def text(self) -> str:
        offset, (_, n) = self.at, self.take("str", "bin")
        if n > MAX_TEXT_BYTES:
            raise Fault(offset, f"text of {n:,} bytes; {MAX_TEXT_BYTES} at most")
        try:
            return self._bytes(n).decode()
        except UnicodeDecodeError as error:
            raise Fault(offset, "text that is not UTF-8") from error

    def number(self) -> int:
        return self.take("uint")[1]

    def blob(self, family: str) -> tuple[int, int]:
        """Where the next bin or array extension lies; moves behind it."""
        offset, (_, n) = self.at, self.take(family)
        if family == "ext":
            code = self._bytes(1)[0]
            if code != NDARRAY:
                raise Fault(offset, f"extension type {code}; only arrays ({NDARRAY}) belong here")
        if n > self.end - self.at:
            raise Fault(offset, f"{n:,} bytes announced, {self.end - self.at:,} left")
        start, self.at = self.at, self.at + n
        return start, self.at

    def _header(self, first: int) -> tuple[str, int]:
        if first < 0x80:
            return "uint", first
        if first < 0xC0:
            family = "map" if first < 0x90 else "array" if first < 0xA0 else "str"
            return family, first & (0x1F if family == "str" else 0x0F)
        if first == 0xC3:
            return "true", 1
        if first in _FIXED_EXT:
            return "ext", _FIXED_EXT[first]
        family, size = _SIZED.get(first, (f"type 0x{first:02x}", 0))
        return family, int.from_bytes(self._bytes(size), "big")

    def _bytes(self, n: int) -> bytes:
        if n > self.end - self.at:
            raise Fault(self.at, f"{n} bytes needed, {self.end - self.at} left: cut off")
        self.at += n
        return self.data[self.at - n : self.at]


class FlaxStream:
    """`index`: key parts joined by '/' -> `Stored`, in the file's order."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self._data, self.path = data, path
        self.index: dict[str, Stored] = {}
        cursor, key, offset = Cursor(data, 0, len(data)), "", 0
        try:
            while cursor.at < cursor.end:
                key, offset = "", cursor.at
                key = read_key(cursor)
                if key in self.index:
                    raise Fault(offset, "this key was there before")
                if len(self.index) >= MAX_ENTRIES:
                    raise Fault(offset, f"more than {MAX_ENTRIES:,} entries")
                self.index[key] = read_value(cursor)
        except Fault as fault:
            where = f" in {key}" if key else ""
            raise CheckpointError(f"{path}: at byte {fault.offset:,}{where}: {fault}") from fault

    def elements(self, stored: Stored, start: int, count: int) -> Tensor:
        """A copy of `count` elements from `start` on in C order, (count,)."""
        size = stored.dtype.itemsize
        out, filled, skip = np.empty(count * size, np.uint8), 0, start * size
        for first, last in stored.spans:
            length = last - first
            take = min(length - skip, len(out) - filled)
            if take > 0:
                source = np.frombuffer(self._data, np.uint8, take, first + skip)
                out[filled : filled + take] = source
                filled += take
            skip = max(skip - length, 0)
        return torch.from_numpy(out).view(stored.dtype)

    def release(self, stored: Stored) -> None:
        """Lets go of the file's pages that were read: they stay cached, but are ours no more."""
        page = mmap.PAGESIZE
        for start, stop in stored.spans:
            first = start // page * page
            self._data.madvise(mmap.MADV_DONTNEED, first, stop - first)


@contextmanager
def opened(path: Path) -> Iterator[FlaxStream]:
    """The stream in a file, indexed. Raises CheckpointError."""
    with open_regular(path) as file:
        if not os.fstat(file.fileno()).st_size:
            raise CheckpointError(f"{path}: is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield FlaxStream(data, path)


def read_key(cursor: Cursor) -> str:
    """Opens a pair and reads its key, ('transformer', 'ln_f', 'kernel')."""
    offset = cursor.at
    if cursor.count("array", 2) != 2:
        raise Fault(offset, "no pair of key and value")
    parts = [cursor.text() for _ in range(cursor.count("array", MAX_KEY_PARTS))]
    if not parts or not all(parts):
        raise Fault(offset, "an empty key")
    return "/".join(parts)


def read_value(cursor: Cursor) -> Stored:
    """flax's bytes of one array, whole or chunked."""
    start, stop = cursor.blob("bin")
    inner = Cursor(cursor.data, start, stop)
    first = cursor.data[start] if stop > start else 0
    stored = _chunked(inner) if 0x80 <= first < 0x90 else _array(inner)
    if inner.at != stop:
        raise Fault(inner.at, f"{stop - inner.at:,} bytes too many behind the array")
    _check_size(stored, start)
    return stored


def _array(cursor: Cursor) -> Stored:
    start, stop = cursor.blob("ext")
    inner = Cursor(cursor.data, start, stop)
    if inner.count("array", 3) != 3:
        raise Fault(start, "an array is (shape, dtype, bytes)")
    shape = tuple(inner.number() for _ in range(inner.count("array", MAX_DIMS)))
    offset, name = inner.at, inner.text()
    if name not in DTYPES:
        raise Fault(offset, f"values of type {name!r}; {', '.join(DTYPES)} are known")
    span = inner.blob("bin")
    if inner.at != stop:
        raise Fault(inner.at, "bytes too many behind the array")
    return Stored(shape, DTYPES[name], (span,))


def _chunked(cursor: Cursor) -> Stored:
    """flax's form of an array above 2^30 bytes: its shape and flat chunks, by number."""
    start, fields = cursor.at, set()
    shape: dict[int, int] = {}
    chunks: dict[int, Stored] = {}
    for _ in range(cursor.count("map", 3)):
        offset, name = cursor.at, cursor.text()
        if name in fields or name not in (CHUNKED, "shape", "chunks"):
            raise Fault(offset, f"field {name!r} of a chunked array")
        fields.add(name)
        if name == CHUNKED:
            cursor.take("true")
        elif name == "shape":
            shape = {i: cursor.number() for i in _numbers(cursor, MAX_DIMS)}
        else:
            chunks = {i: _chunk(cursor) for i in _numbers(cursor, MAX_CHUNKS)}
    types = {chunk.dtype for chunk in chunks.values()}
    if len(fields) != 3 or len(types) != 1:
        raise Fault(start, "a chunked array needs a mark, a shape, and chunks of one type")
    spans = tuple(span for i in range(len(chunks)) for span in chunks[i].spans)
    return Stored(tuple(shape[i] for i in range(len(shape))), types.pop(), spans)


def _chunk(cursor: Cursor) -> Stored:
    offset, chunk = cursor.at, _array(cursor)
    if len(chunk.shape) != 1:
        raise Fault(offset, f"a chunk of shape {chunk.shape}; chunks are flat")
    _check_size(chunk, offset)
    return chunk


def _numbers(cursor: Cursor, most: int) -> Iterator[int]:
    """The keys of a map {'0': .., '1': ..}, each once; the caller reads the value behind each."""
    offset, n = cursor.at, cursor.count("map", most)
    expected = {str(i): i for i in range(n)}
    for _ in range(n):
        name = cursor.text()
        if name not in expected:
            raise Fault(offset, f"{name!r} where one of {n} numbers belongs, each once")
        yield expected.pop(name)


def _check_size(stored: Stored, offset: int) -> None:
    found = sum(stop - start for start, stop in stored.spans)
    needed = math.prod(stored.shape) * stored.dtype.itemsize
    if found != needed or not needed:
        raise Fault(offset, f"shape {stored.shape} needs {needed:,} bytes, {found:,} are there")
