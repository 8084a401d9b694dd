"""A message and its arrays as ZeroMQ parts: ``[header msgpack][part]*``.

Sizes, counts, shapes and types are checked against the parts' real sizes before anything is
allocated. Knows arrays by name only; what a message means is the dispatcher's business.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import zmq

from sim_stream.errors import ProtocolError
from sim_stream.wire.codec import encode
from sim_stream.wire.messages import ArraySpec, Message

AnyArray = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
Arrays = Mapping[str, AnyArray]
Buffer = bytes | memoryview
M = TypeVar("M", bound=Message)

HEADER_BYTES = 64 * 1024
PARTS = 16
# What a shape may claim, counting a size of 0 as 1: an array of no bytes may claim anything else.
ARRAY_BYTES = 2**31 - 1
# From this size a part is handed to ZeroMQ without a copy (facts/bridge.md). Its buffer must then
# stay as it is until it is sent; here no buffer is ever written again, so nobody has to wait.
ZERO_COPY_BYTES = 64 * 1024
_NO_ARRAYS: Arrays = {}


@dataclass(frozen=True, kw_only=True)
class FramingLimits:
    """Bounds of one message. ``parts`` counts the arrays, without the header."""

    message_bytes: int
    header_bytes: int = HEADER_BYTES
    parts: int = PARTS


@dataclass(frozen=True)
class Packet:
    """A message with the arrays that travel beside it."""

    message: Message
    arrays: Arrays = field(default_factory=dict)


def pack(message: M, arrays: Arrays = _NO_ARRAYS) -> list[Buffer]:
    """Parts of a message; ``message.arrays`` is filled in here."""
    specs: list[ArraySpec] = []
    parts: list[Buffer] = []
    for name, array in arrays.items():
        dtype = array.dtype.str
        if dtype not in ("|u1", "<f4"):
            raise ProtocolError(f"arrays.{name}.dtype", dtype, "|u1 or <f4")
        contiguous = np.ascontiguousarray(array)
        specs.append(
            ArraySpec(
                name=name,
                dtype="|u1" if dtype == "|u1" else "<f4",
                shape=list(array.shape),
                nbytes=contiguous.nbytes,
            )
        )
        parts.append(contiguous.reshape(-1).view(np.uint8).data)
    return [encode(msgspec.structs.replace(message, arrays=specs)), *parts]


def check_sizes(parts: Sequence[Buffer], limits: FramingLimits) -> None:
    """Refuses a message by its sizes alone. Raises ProtocolError."""
    if not parts:
        raise ProtocolError("message", "no parts", "a header, then at most 16 parts")
    header_bytes = memoryview(parts[0]).nbytes
    if header_bytes > limits.header_bytes:
        raise ProtocolError("header", f"{header_bytes} bytes", f"{limits.header_bytes} bytes")
    if len(parts) - 1 > limits.parts:
        raise ProtocolError("message", f"{len(parts) - 1} parts", f"{limits.parts} parts")
    total = sum(memoryview(part).nbytes for part in parts)
    if total > limits.message_bytes:
        raise ProtocolError("message", f"{total} bytes", f"{limits.message_bytes} bytes in all")


def unpack(specs: Sequence[ArraySpec], parts: Sequence[Buffer]) -> dict[str, AnyArray]:
    """The arrays of a message as copies of its parts (header excluded). Raises ProtocolError."""
    if len(specs) != len(parts):
        raise ProtocolError("arrays", f"{len(specs)} arrays, {len(parts)} parts", "one part each")
    views: dict[str, AnyArray] = {}
    for spec, part in zip(specs, parts, strict=True):
        if spec.name in views:
            raise ProtocolError("arrays", f"{spec.name} twice", "each name once")
        views[spec.name] = _view(spec, part)
    # Copied: a view would keep ZeroMQ's buffer, read-only, for as long as the array lives.
    try:
        return {name: view.copy() for name, view in views.items()}
    except MemoryError as error:
        raise ProtocolError("arrays", "more than this process has memory for", "less") from error


def _view(spec: ArraySpec, part: Buffer) -> AnyArray:
    where = f"arrays.{spec.name}"
    item_bytes = 1 if spec.dtype == "|u1" else 4
    expected = math.prod(spec.shape) * item_bytes
    if spec.nbytes != expected:
        raise ProtocolError(
            f"{where}.nbytes", spec.nbytes, f"{expected} for shape {spec.shape} of {spec.dtype}"
        )
    if math.prod(max(size, 1) for size in spec.shape) * item_bytes > ARRAY_BYTES:
        raise ProtocolError(
            f"{where}.shape", spec.shape, f"{ARRAY_BYTES} bytes at most, a 0 counted as 1"
        )
    actual = memoryview(part).nbytes
    if actual != expected:
        raise ProtocolError(where, f"a part of {actual} bytes", f"{expected} bytes")
    try:
        view: AnyArray = np.frombuffer(part, dtype=np.dtype(spec.dtype)).reshape(spec.shape)
    except (ValueError, OverflowError) as error:  # numpy's own bounds are not ours
        raise ProtocolError(f"{where}.shape", spec.shape, f"a shape of arrays ({error})") from error
    return view


def send(
    socket: zmq.Socket[bytes], parts: Sequence[Buffer], *, route: bytes | None = None, flags: int
) -> None:
    """Sends a message, large parts without a copy. Raises zmq.ZMQError."""
    prefixed = parts if route is None else [route, *parts]
    last = len(prefixed) - 1
    for index, part in enumerate(prefixed):
        more = zmq.SNDMORE if index < last else 0
        copy = memoryview(part).nbytes < ZERO_COPY_BYTES
        socket.send(part, flags | more, copy=copy)


def receive(socket: zmq.Socket[bytes], limits: FramingLimits, *, routed: bool) -> list[zmq.Frame]:
    """One waiting message's frames; surplus ones are read and dropped, one stays to be refused.

    ``routed``: a ROUTER's routing id leads. Raises zmq.Again when nothing waits.
    """
    keep = limits.parts + 2 + int(routed)
    frames: list[zmq.Frame] = []
    more = True
    while more:
        frame = socket.recv(zmq.NOBLOCK, copy=False)
        more = frame.more
        if len(frames) < keep:
            frames.append(frame)
    return frames


def buffers(frames: Sequence[zmq.Frame]) -> list[Buffer]:
    return [frame.buffer for frame in frames]
