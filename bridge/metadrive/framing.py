"""Length-prefixed msgpack over a pair of pipes, for the two ends of a MetaDrive worker.

One message is a four-byte little-endian length and that many bytes of msgpack. Both ends import
this file, and they live in different environments: it knows msgspec and file descriptors, no more.
"""

from __future__ import annotations

import os
import select
import struct
import time
from typing import Any

import msgspec

LENGTH = struct.Struct("<I")
MAX_MESSAGE_BYTES = 64 << 20


class PipeClosed(EOFError):
    """The other end is gone; what it wrote so far ends inside or before a message."""


def write_message(fd: int, message: dict[str, Any]) -> None:
    """Write one message whole; raises PipeClosed when nobody reads any more."""
    body = msgspec.msgpack.encode(message)
    data = memoryview(LENGTH.pack(len(body)) + body)
    try:
        while data:
            data = data[os.write(fd, data) :]
    except BrokenPipeError as error:
        raise PipeClosed("the other end closed the pipe") from error


def read_message(fd: int, timeout_s: float | None = None) -> dict[str, Any]:
    """Read one message; raises TimeoutError after timeout_s, PipeClosed at the end of the pipe."""
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    (size,) = LENGTH.unpack(_read_exactly(fd, LENGTH.size, deadline_s))
    if size > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message of {size} bytes; the limit is {MAX_MESSAGE_BYTES}")
    message = msgspec.msgpack.decode(_read_exactly(fd, size, deadline_s))
    if not isinstance(message, dict):
        raise ValueError(f"a message is a map, this one is a {type(message).__name__}")
    return message


def _read_exactly(fd: int, size: int, deadline_s: float | None) -> bytes:
    data = bytearray()
    while len(data) < size:
        if deadline_s is not None:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not select.select([fd], [], [], left_s)[0]:
                raise TimeoutError("no answer in time")
        chunk = os.read(fd, size - len(data))
        if not chunk:
            raise PipeClosed("the other end closed the pipe")
        data += chunk
    return bytes(data)
