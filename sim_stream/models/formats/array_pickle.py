"""Pickles of nested dicts of arrays, and nothing else; what they ask for is never called.

A pickle is a program. First its opcodes are read (nothing runs): only those that such a dict needs
are allowed, and no length or memo index may exceed the file. Then it is run by an unpickler that
finds stand-ins of ours for the few names that arrays are pickled with (numpy, flax's FrozenDict,
jax's arrays), and refuses every other name. The stand-ins check what they are given.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sim_stream.errors import CheckpointError

MAX_BYTES = 8 << 30
MAX_DEPTH, MAX_DIMS, MAX_NODES = 16, 8, 10_000
DTYPES = {"f4": torch.float32, "f2": torch.float16, "bfloat16": torch.bfloat16}
_OPCODES = """
    PROTO FRAME STOP MARK POP POP_MARK DUP EMPTY_DICT DICT SETITEM SETITEMS EMPTY_LIST LIST APPEND
    APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 NONE NEWTRUE NEWFALSE INT LONG BININT BININT1
    BININT2 LONG1 UNICODE BINUNICODE SHORT_BINUNICODE STRING BINSTRING SHORT_BINSTRING BINBYTES
    SHORT_BINBYTES BINBYTES8 BYTEARRAY8 GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE
    GLOBAL STACK_GLOBAL REDUCE BUILD NEWOBJ
"""
OPCODES = frozenset(_OPCODES.split())
PUTS = ("PUT", "BINPUT", "LONG_BINPUT")


def read(path: Path) -> dict[str, Tensor]:
    """Arrays by their path in the dict, 'encoder/Conv_0/kernel'. Raises CheckpointError."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise CheckpointError(f"{path}: {size:,} bytes; {MAX_BYTES:,} at most")
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    try:
        check_opcodes(data)
        return flatten(Unpickler(data).load())
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except Exception as error:  # a broken pickle fails in any way; nothing of it is kept
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise CheckpointError(f"{path}: not a pickle of arrays: {reason}") from error


def check_opcodes(data: bytes) -> None:
    """Raises CheckpointError where the program has an opcode or a length it should not have."""
    memo = 0
    for opcode, argument, at in pickletools.genops(data):
        if opcode.name not in OPCODES:
            raise CheckpointError(f"at byte {at}: opcode {opcode.name} has no place in arrays")
        number = argument if isinstance(argument, int) else 0
        if opcode.name == "FRAME" and number > len(data) - (at or 0):
            raise CheckpointError(f"at byte {at}: a frame of {number:,} bytes is cut off")
        memo += opcode.name in ("MEMOIZE", *PUTS)
        if opcode.name in PUTS and number > 2 * memo + 1000:
            raise CheckpointError(f"at byte {at}: memo index {number:,} is out of all proportion")


class Dtype:
    """Stands in for numpy's: a name and a byte order."""

    def __init__(self, name: object, *flags: bool) -> None:
        if type(name) is not str:
            raise CheckpointError("an array whose type has no name")
        self.name = name

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] == ">":
            raise CheckpointError("arrays in big-endian order")

    @property
    def torch(self) -> torch.dtype:
        name = self.name.lstrip("<=|")
        if name not in DTYPES:
            raise CheckpointError(f"an array of type {self.name!r}; {', '.join(DTYPES)} are known")
        return DTYPES[name]


class Array:
    """Stands in for numpy's array."""

    tensor: Tensor | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """numpy's own state: (version, shape, dtype, whether in Fortran order, bytes)."""
        _, shape, dtype, fortran, data = state
        self.tensor = tensor_of(data, dtype, shape, "F" if fortran else "C")


def tensor_of(data: object, dtype: object, shape: object, order: object) -> Tensor:
    """An array's bytes as a tensor. Raises CheckpointError.

    Messages show nothing unchecked: what a pickle shares a few times over can be endless in print.
    """
    if not isinstance(dtype, Dtype) or not isinstance(data, bytes | bytearray):
        raise CheckpointError("an array without a type or without bytes")
    if not isinstance(shape, tuple) or len(shape) > MAX_DIMS:
        raise CheckpointError(f"an array without a shape of up to {MAX_DIMS} axes")
    if not all(type(n) is int and 0 < n <= MAX_BYTES for n in shape):
        raise CheckpointError("an array with an axis that has no length")
    kind = dtype.torch
    if math.prod(shape) * kind.itemsize != len(data):
        raise CheckpointError(f"an array of shape {shape} and {dtype.name} in {len(data)} bytes")
    flat = torch.from_numpy(np.frombuffer(data, np.uint8).copy()).view(kind)
    if order == "F":
        return flat.view(shape[::-1]).permute(*reversed(range(len(shape)))).contiguous()
    return flat.view(shape)


def _reconstruct(kind: object, shape: object, code: object) -> Array:
    """numpy's way to make an empty array that is then given its state."""
    return Array()


def _from_buffer(data: object, dtype: object, shape: object, order: object) -> Array:
    """numpy's way in pickle protocol 5."""
    array = Array()
    array.tensor = tensor_of(data, dtype, shape, order)
    return array


def _jax_array(function: object, arguments: Any, state: Any, *aval: object) -> Array:
    """jax's way: how to make the numpy array, and its state."""
    array = Array()
    array.__setstate__(state)
    return array


def _frozen_dict(content: object = None) -> object:
    return {} if content is None else content


def _latin1(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in pickle protocol 2."""
    return text.encode("latin1")


def stand_ins() -> Mapping[tuple[str, str], object]:
    """Fresh for each pickle, which may write into them."""

    class OwnArray(Array):
        pass

    class OwnDtype(Dtype):
        pass

    names: dict[tuple[str, str], object] = {}
    for core in ("numpy.core", "numpy._core"):
        names[f"{core}.multiarray", "_reconstruct"] = lambda *given: _reconstruct(*given)
        names[f"{core}.numeric", "_frombuffer"] = lambda *given: _from_buffer(*given)
    names["numpy", "ndarray"] = OwnArray
    names["numpy", "dtype"] = OwnDtype
    names["ml_dtypes", "bfloat16"] = "bfloat16"
    names["_codecs", "encode"] = lambda *given: _latin1(*given)
    for home in ("flax.core.frozen_dict", "flax.core"):
        names[home, "FrozenDict"] = lambda *given: _frozen_dict(*given)
    for home in ("jax._src.array", "jax._src.device_array", "jaxlib.xla_extension"):
        for name in ("_reconstruct_array", "reconstruct_device_array"):
            names[home, name] = lambda *given: _jax_array(*given)
    return names


class Unpickler(pickle.Unpickler):
    """Finds the stand-ins only."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self._names = stand_ins()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._names:
            raise CheckpointError(f"it asks for {module}.{name}; only arrays are let in")
        return self._names[module, name]

    def persistent_load(self, pid: object) -> Any:
        raise CheckpointError("it refers to something outside the file")


def flatten(tree: object) -> dict[str, Tensor]:
    """Leaves of nested dicts by their path. Raises CheckpointError."""
    flat: dict[str, Tensor] = {}
    todo: list[tuple[tuple[str, ...], object]] = [((), tree)]
    for _ in range(MAX_NODES):
        if not todo:
            return flat
        path, node = todo.pop()
        if len(path) > MAX_DEPTH:
            raise CheckpointError(f"nested deeper than {MAX_DEPTH} levels: {'/'.join(path)}")
        if isinstance(node, Array) and node.tensor is not None and path:
            flat["/".join(path)] = node.tensor
        elif isinstance(node, dict) and all(isinstance(name, str) for name in node):
            todo += [((*path, name), child) for name, child in node.items()]
        else:
            raise CheckpointError(f"{'/'.join(path) or 'the top'} is no array and no dict of them")
    raise CheckpointError(f"more than {MAX_NODES:,} arrays and dicts")
