"""Pickles of nested dicts of arrays, and nothing else; what they ask for is never called.

A pickle is a program. First its opcodes are read (nothing runs): only those that such a dict needs
are allowed, and no length or memo index may exceed the file. Then it is run by an unpickler that
finds stand-ins of ours for the few names that arrays are pickled with (numpy, flax's FrozenDict,
jax's arrays), and refuses every other name. The stand-ins check what they are given, and keep a
budget: each byte of the file may become a byte of an array once, so a buffer that the program
refers to a thousand times is refused at the second.
"""

from __future__ import annotations

import math
import os
import pickle
import pickletools
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from sim_stream.errors import CheckpointError
from sim_stream.files import open_regular

MAX_BYTES = 2 << 30  # LWM's file is of 585 MB
MAX_DEPTH, MAX_DIMS, MAX_NODES = 16, 8, 10_000
# An array needs some thirty opcodes; each that is allowed makes an object of at most some hundred
# bytes beside what it takes from the file.
MAX_OPCODES, MAX_LINE_BYTES, MAX_NAME = 100_000, 1 << 16, 256
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
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise CheckpointError(f"{path}: {size:,} bytes; {MAX_BYTES:,} at most")
        try:
            check_opcodes(file, size)
            file.seek(0)
            return flatten(Unpickler(file, size).load(), size)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
        except Exception as error:  # a broken pickle fails in any way; nothing of it is kept
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            raise CheckpointError(f"{path}: not a pickle of arrays: {reason}") from error


def check_opcodes(file: BinaryIO, size: int) -> None:
    """Raises CheckpointError where the program has an opcode or a length it should not have."""
    memo = 0
    for count, (opcode, argument, at) in enumerate(pickletools.genops(_Bounded(file, size))):  # type: ignore[arg-type]
        if opcode.name not in OPCODES:
            raise CheckpointError(f"at byte {at}: opcode {opcode.name} has no place in arrays")
        if count == MAX_OPCODES:
            raise CheckpointError(f"at byte {at}: more than {MAX_OPCODES:,} opcodes")
        number = argument if isinstance(argument, int) else 0
        if opcode.name == "FRAME" and number > size - (at or 0):
            raise CheckpointError(f"at byte {at}: a frame of {number:,} bytes is cut off")
        memo += opcode.name in ("MEMOIZE", *PUTS)
        if opcode.name in PUTS and number > 2 * memo + 1000:
            raise CheckpointError(f"at byte {at}: memo index {number:,} is out of all proportion")


class _Bounded:
    """A file for `genops`: no length is believed before it was found to lie within the file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self.tell = file.tell

    def read(self, n: int) -> bytes:
        left = self._size - self._file.tell()
        if n > left:
            raise EOFError(f"{n:,} bytes announced, {left:,} left: cut off or damaged")
        return self._file.read(n)

    def readline(self) -> bytes:
        line = self._file.readline(MAX_LINE_BYTES)
        if len(line) == MAX_LINE_BYTES:
            raise EOFError(f"a line of more than {MAX_LINE_BYTES:,} bytes")
        return line


class Budget:
    """Bytes that may still be made."""

    def __init__(self, size: int) -> None:
        self._left = size

    def spend(self, size: int) -> None:
        """Raises CheckpointError where more is made than the file holds."""
        self._left -= size
        if self._left < 0:
            raise CheckpointError("its arrays are larger than the file: it repeats its own bytes")


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
    budget: Budget

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """numpy's own state: (version, shape, dtype, whether in Fortran order, bytes)."""
        _, shape, dtype, fortran, data = state
        self.tensor = tensor_of(data, dtype, shape, "F" if fortran else "C", self.budget)


def tensor_of(data: object, dtype: object, shape: object, order: object, budget: Budget) -> Tensor:
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
    budget.spend(len(data))
    flat = torch.from_numpy(np.frombuffer(data, np.uint8).copy()).view(kind)
    if order == "F":
        return flat.view(shape[::-1]).permute(*reversed(range(len(shape)))).contiguous()
    return flat.view(shape)


def _frozen_dict(content: object = None) -> object:
    return {} if content is None else content


class StandIns:
    """What is found under the names that arrays are pickled with; fresh for each pickle, which may
    write into them. Arrays and encoded text have a budget each of the file's `size`."""

    def __init__(self, size: int) -> None:
        arrays, self._text = Budget(size), Budget(size)

        class OwnArray(Array):
            budget = arrays

        class OwnDtype(Dtype):
            pass

        self._array = OwnArray
        names: dict[tuple[str, str], object] = {
            ("numpy", "ndarray"): OwnArray,
            ("numpy", "dtype"): OwnDtype,
            ("ml_dtypes", "bfloat16"): "bfloat16",
            ("_codecs", "encode"): lambda *given: self._latin1(*given),
        }
        for core in ("numpy.core", "numpy._core"):
            names[f"{core}.multiarray", "_reconstruct"] = lambda *given: self._reconstruct(*given)
            names[f"{core}.numeric", "_frombuffer"] = lambda *given: self._from_buffer(*given)
        for home in ("flax.core.frozen_dict", "flax.core"):
            names[home, "FrozenDict"] = lambda *given: _frozen_dict(*given)
        for home in ("jax._src.array", "jax._src.device_array", "jaxlib.xla_extension"):
            for name in ("_reconstruct_array", "reconstruct_device_array"):
                names[home, name] = lambda *given: self._jax_array(*given)
        self.names = names

    def _reconstruct(self, kind: object, shape: object, code: object) -> Array:
        """numpy's way to make an empty array that is then given its state."""
        return self._array()

    def _from_buffer(self, data: object, dtype: object, shape: object, order: object) -> Array:
        """numpy's way in pickle protocol 5."""
        array = self._array()
        array.tensor = tensor_of(data, dtype, shape, order, self._array.budget)
        return array

    def _jax_array(self, function: object, arguments: Any, state: Any, *aval: object) -> Array:
        """jax's way: how to make the numpy array, and its state."""
        array = self._array()
        array.__setstate__(state)
        return array

    def _latin1(self, text: str, encoding: str) -> bytes:
        """How Python 3 writes bytes in pickle protocol 2."""
        self._text.spend(len(text))
        return text.encode("latin1")


class Unpickler(pickle.Unpickler):
    """Finds the stand-ins only."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        super().__init__(file)
        self._names = StandIns(size).names

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._names:
            raise CheckpointError(f"it asks for {module}.{name}; only arrays are let in")
        return self._names[module, name]

    def persistent_load(self, pid: object) -> Any:
        raise CheckpointError("it refers to something outside the file")


def flatten(tree: object, size: int) -> dict[str, Tensor]:
    """Leaves of nested dicts by their path, of `size` bytes together. Raises CheckpointError."""
    flat: dict[str, Tensor] = {}
    budget = Budget(size)  # one array may hang from many branches, and be copied for each
    todo: list[tuple[tuple[str, ...], object]] = [((), tree)]
    for _ in range(MAX_NODES):
        if not todo:
            return flat
        path, node = todo.pop()
        if len(path) > MAX_DEPTH:
            raise CheckpointError(f"nested deeper than {MAX_DEPTH} levels: {'/'.join(path)}")
        if isinstance(node, Array) and node.tensor is not None and path:
            budget.spend(node.tensor.nbytes)
            flat["/".join(path)] = node.tensor
        elif isinstance(node, dict) and all(_is_name(name) for name in node):
            if len(todo) + len(node) > MAX_NODES:
                break
            todo += [((*path, name), child) for name, child in node.items()]
        else:
            raise CheckpointError(f"{'/'.join(path) or 'the top'} is no array and no dict of them")
    raise CheckpointError(f"more than {MAX_NODES:,} arrays and dicts")


def _is_name(name: object) -> bool:
    return isinstance(name, str) and len(name) <= MAX_NAME
