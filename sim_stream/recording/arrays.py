"""The arrays of a request, bit by bit: packed for a file, and back by what its line says of them.

A line is held to its header's spec before anything is read. Knows no files.
"""

from __future__ import annotations

import hashlib
import math
import zlib

import numpy as np

from sim_stream.errors import InvalidInput
from sim_stream.recording.bounds import ARRAYS_BYTES
from sim_stream.recording.lines import Kept, Shown
from sim_stream.spec import Dtype, StreamSpec, arrays_of
from sim_stream.wire.framing import AnyArray
from sim_stream.wire.inputs import INPUTS, PROMPT
from sim_stream.wire.messages import Close, Step

LEVEL = 1


def packed(array: AnyArray) -> bytes:
    return zlib.compress(np.ascontiguousarray(array).data, LEVEL)


def kept_as(name: str, array: AnyArray, *, first: int, stored: int) -> Kept:
    """What a line says of an array."""
    return Kept(
        name=name,
        dtype="|u1" if array.dtype == np.uint8 else "<f4",
        shape=list(array.shape),
        first=first,
        stored=stored,
        sha256=hashlib.sha256(np.ascontiguousarray(array).data).hexdigest(),
    )


def unpacked(kept: Kept, data: bytes) -> AnyArray:
    """Raises InvalidInput; never unpacks more than the line says."""
    size = bytes_of(kept)
    unpacking = zlib.decompressobj()
    try:
        raw = unpacking.decompress(data, size + 1)
    except zlib.error as error:
        raise _not_recorded(kept, str(error)) from error
    whole = len(raw) == size and unpacking.eof and not unpacking.unused_data
    if not whole or hashlib.sha256(raw).hexdigest() != kept.sha256:
        raise _not_recorded(kept, "other bytes")
    array: AnyArray = np.frombuffer(raw, dtype=np.dtype(kept.dtype)).reshape(kept.shape).copy()
    return array


def require_allowed(spec: StreamSpec, line: Shown) -> None:
    """What the line says of its arrays is what such a request takes. Raises InvalidInput."""
    expected = _expected(spec, line)
    for kept in line.arrays:
        allowed = expected.pop(kept.name, None)
        if allowed != (kept.dtype, tuple(kept.shape)):
            shown = "none" if allowed is None else f"{allowed[0]} {list(allowed[1])}"
            raise InvalidInput(kept.name, f"{kept.dtype} {kept.shape}", shown)
        if not 0 < kept.stored <= most_stored(bytes_of(kept)):
            allowed_bytes = f"1..{most_stored(bytes_of(kept))}"
            raise InvalidInput(kept.name, f"{kept.stored} bytes", allowed_bytes)
    total = sum(map(bytes_of, line.arrays))
    if total > ARRAYS_BYTES:
        raise InvalidInput("arrays", f"{total} bytes", f"{ARRAYS_BYTES >> 20} MiB a request")


def bytes_of(kept: Kept) -> int:
    """Of the array itself."""
    return math.prod(kept.shape) * np.dtype(kept.dtype).itemsize


def most_stored(size: int) -> int:
    """What zlib makes of that many bytes at worst."""
    return size + size // 256 + 64


def _expected(spec: StreamSpec, line: Shown) -> dict[str, tuple[Dtype, tuple[int, ...]]]:
    """Type and shape of the arrays that may come with that request, by name."""
    if isinstance(line.request, Close):
        return {}
    step = arrays_of(spec.step_inputs)
    if isinstance(line.request, Step):
        return {INPUTS + one.name: (one.dtype, one.shape) for one in step}
    session = {INPUTS + one.name: (one.dtype, one.shape) for one in arrays_of(spec.session_inputs)}
    frames = 0 if line.prompt is None else len(line.prompt.sha256)
    return session | {PROMPT + one.name: (one.dtype, (frames, *one.shape)) for one in step}


def _not_recorded(kept: Kept, why: str) -> InvalidInput:
    return InvalidInput(kept.name, why, "the array that was recorded")
