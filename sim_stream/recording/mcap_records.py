"""The messages of an MCAP file that anybody may have written, from its front, one at a time.

The ``mcap`` package's own reader takes a chunk for as large as it says and unpacks LZ4 to any size;
here a record, a chunk and all chunks together have bounds (``bounds``). What is not a message or a
channel is passed over unread, the index too. Knows no topics and no lines. Needs ``mcap``, the
extra.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import lz4.frame
from mcap.exceptions import EndOfFile, InvalidMagic, McapError, RecordLengthLimitExceeded
from mcap.opcode import Opcode
from zstandard import ZstdDecompressor, ZstdError

from sim_stream.media_path import require_regular
from sim_stream.recording.bounds import GROWN_BYTES, GROWTH, RECORD_BYTES

MAGIC = b"\x89MCAP0\r\n"
RECORD = struct.Struct("<BQ")  # opcode, length
# Of a message: channel, sequence, log and publish time. Of a chunk: start, end, size, CRC.
MESSAGE = struct.Struct("<HIQQ")
CHUNK = struct.Struct("<QQQI")
WINDOW_BYTES = 128 * 2**20
# What reading a file that was cut off or damaged may fail with. LZ4 has no errors of its own.
READ_ERRORS = (McapError, ZstdError, struct.error, ValueError, KeyError, RuntimeError)


class Sent(NamedTuple):
    """``data`` is valid until the next one is asked for."""

    topic: str
    sequence: int
    data: memoryview


def messages(path: Path) -> Iterator[Sent]:
    """Up to where the file cannot be read any further. Raises OSError."""
    require_regular(path)
    with path.open("rb") as file:
        try:
            yield from _messages(file)
        except READ_ERRORS:
            return


def _messages(file: BinaryIO) -> Iterator[Sent]:
    size = os.fstat(file.fileno()).st_size
    left = GROWN_BYTES + GROWTH * size
    topics: dict[int, str] = {}
    if file.read(len(MAGIC)) != MAGIC:
        raise InvalidMagic(b"")
    while True:
        opcode, length = RECORD.unpack(file.read(RECORD.size))
        if length > size - file.tell():
            raise EndOfFile
        if opcode in (Opcode.DATA_END, Opcode.FOOTER):
            return
        if opcode not in (Opcode.CHUNK, Opcode.CHANNEL, Opcode.MESSAGE):
            file.seek(length, os.SEEK_CUR)
            continue
        if length > RECORD_BYTES:
            raise RecordLengthLimitExceeded(opcode, length, RECORD_BYTES)
        content = memoryview(file.read(length))
        if opcode == Opcode.CHUNK:
            chunk = memoryview(_unpacked(content, min(left, RECORD_BYTES)))
            left -= len(chunk)
            yield from _in_chunk(chunk, topics)
        else:
            yield from _one(opcode, content, topics)


def _in_chunk(chunk: memoryview, topics: dict[int, str]) -> Iterator[Sent]:
    place = 0
    while place < len(chunk):
        opcode, length = RECORD.unpack_from(chunk, place)
        place += RECORD.size
        if length > len(chunk) - place:
            raise EndOfFile
        yield from _one(opcode, chunk[place : place + length], topics)
        place += length


def _one(opcode: int, content: memoryview, topics: dict[int, str]) -> Iterator[Sent]:
    if opcode == Opcode.MESSAGE:
        channel, sequence, _, _ = MESSAGE.unpack_from(content)
        yield Sent(topics[channel], sequence, content[MESSAGE.size :])
    elif opcode == Opcode.CHANNEL:
        channel, _, length = struct.unpack_from("<HHI", content)
        topics[channel] = str(content[8 : 8 + length], "utf-8")


def _unpacked(chunk: memoryview, most: int) -> bytes | memoryview:
    """What a chunk holds, if that is as much as it says and no more than ``most``."""
    _, _, size, crc = CHUNK.unpack_from(chunk)
    if size > most:
        raise RecordLengthLimitExceeded(Opcode.CHUNK, size, most)
    (name_bytes,) = struct.unpack_from("<I", chunk, CHUNK.size)
    start = CHUNK.size + 4 + name_bytes
    name = str(chunk[CHUNK.size + 4 : start], "utf-8")
    (packed_bytes,) = struct.unpack_from("<Q", chunk, start)
    packed = chunk[start + 8 : start + 8 + packed_bytes]
    unpack = {"": lambda packed, size: packed, "zstd": _zstd, "lz4": _lz4}[name]
    data: bytes | memoryview = unpack(packed, size)
    if len(packed) != packed_bytes or len(data) != size:
        raise EndOfFile
    if crc and zlib.crc32(data) != crc:
        raise ValueError("a damaged chunk")
    return data


def _zstd(packed: memoryview, size: int) -> bytes:
    unpacking = ZstdDecompressor(max_window_size=WINDOW_BYTES)
    with unpacking.stream_reader(io.BytesIO(packed), read_across_frames=True) as stream:
        return stream.read(size + 1)


def _lz4(packed: memoryview, size: int) -> bytes:
    data: bytes = lz4.frame.LZ4FrameDecompressor().decompress(packed, max_length=size + 1)
    return data
