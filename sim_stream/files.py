"""Files that somebody else made or edited, read without harm.

A name may turn out to be a FIFO that never ends, a device, a folder or a link to nowhere; JSON may
nest deeper than any stack, repeat a key, or hold what no reader expects (NaN, numbers of a thousand
digits, halves of characters). All of these are refused by name, before memory or time is spent.
Links are followed: a hub's cache is made of them. Which error is raised is the caller's choice.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

from sim_stream.errors import CheckpointError, SimStreamError

MAX_JSON_BYTES = 16 << 20
MAX_JSON_DEPTH = 32
HASH_BLOCK_BYTES = 1 << 22

Error = type[SimStreamError]  # made of a message alone: CheckpointError, EngineError


def open_regular(path: Path, error: Error = CheckpointError) -> BinaryIO:
    """A regular file, open for reading; never waits for a FIFO's other end. Raises `error`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise error(f"{path}: {_what(path)}, no regular file")
            return os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise
    except (OSError, ValueError) as cause:
        raise error(f"{path}: {_why(path, cause)}") from cause


def require_regular(path: Path, error: Error = CheckpointError) -> int:
    """The size in bytes of a regular file. Raises `error`."""
    with open_regular(path, error) as file:
        return os.fstat(file.fileno()).st_size


def read_bytes(path: Path, *, at_most: int, error: Error = CheckpointError) -> bytes:
    """A whole file of bounded size. Raises `error`."""
    with open_regular(path, error) as file:
        try:
            data = file.read(at_most + 1)
        except OSError as cause:
            raise error(f"{path}: cannot be read: {cause.strerror}") from cause
    if len(data) > at_most:
        raise error(f"{path}: larger than {at_most:,} bytes")
    return data


def sha256_of(path: Path, error: Error = CheckpointError) -> str:
    """Read in blocks: the file may be larger than memory. Raises `error`."""
    digest = hashlib.sha256()
    with open_regular(path, error) as file:
        try:
            while block := file.read(HASH_BLOCK_BYTES):
                digest.update(block)
        except OSError as cause:
            raise error(f"{path}: cannot be read: {cause.strerror}") from cause
    return digest.hexdigest()


def read_json(path: Path, error: Error = CheckpointError) -> dict[str, Any]:
    """A JSON object of bounded size and depth. Raises `error`."""
    data = read_bytes(path, at_most=MAX_JSON_BYTES, error=error)
    try:
        value = parse_json(data)
    except ValueError as cause:
        raise error(f"{path}: cannot be read: {cause}") from cause
    if not isinstance(value, dict):
        raise error(f"{path}: not a JSON object")
    return value


def parse_json(data: bytes) -> Any:
    """Strict JSON in UTF-8: no key twice, no NaN, no number beyond 64 bits. Raises ValueError."""
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_constant
        )
    except RecursionError as error:
        raise ValueError(f"nested deeper than {MAX_JSON_DEPTH} levels") from error
    _check(value)
    return value


def escapes(name: str) -> bool:
    """Whether a file name that a file gives is more than the name of a file beside it."""
    return Path(name).name != name or name in ("", ".", "..") or "\0" in name or len(name) > 255


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{twice[:80]!r} stands twice in one object")
    return made


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON's")


def _check(value: Any) -> None:
    """Depth, numbers and text of all that was read, without recursion. Raises ValueError."""
    level = [value]
    for _ in range(MAX_JSON_DEPTH + 1):
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                below += node.keys()
                below += node.values()
            elif isinstance(node, list):
                below += node
            elif isinstance(node, float) and not math.isfinite(node):
                raise ValueError("a number that is too large")
            elif isinstance(node, int) and not -(2**63) <= node < 2**64:
                raise ValueError("a whole number beyond 64 bits")
            elif isinstance(node, str) and not node.isascii():
                node.encode()  # UnicodeEncodeError, a ValueError: half of a pair stands alone
        if not below:
            return
        level = below
    raise ValueError(f"nested deeper than {MAX_JSON_DEPTH} levels")


def _what(path: Path) -> str:
    kinds = {
        "a folder": path.is_dir,
        "a FIFO": path.is_fifo,
        "a device": lambda: path.is_char_device() or path.is_block_device(),
        "a socket": path.is_socket,
    }
    return next((name for name, is_it in kinds.items() if is_it()), "something else")


def _why(path: Path, cause: OSError | ValueError) -> str:
    if isinstance(cause, FileNotFoundError) and path.is_symlink():
        return f"a link to nowhere ({os.readlink(path)})"
    if isinstance(cause, FileNotFoundError):
        return "cannot be read: no such file"
    return f"cannot be read: {getattr(cause, 'strerror', None) or cause}"
