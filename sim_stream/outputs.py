"""Outputs are tried before work starts, and what keeps one from being written is said in a line.

    try_file("out", path)       a file that will be written: its folder takes a file of that name
    try_folder("out", path)     a folder that will be filled: it is there or can be made
    with said_plainly(path):    what a full disk says midway, as Unavailable
    write_whole(path, content)  under its name only when it is whole

A trial writes what a small output needs and takes it away again, so that permissions, read-only and
full disks, quotas and names too long are found by the system that will refuse them, not guessed.
Knows nothing about what is written.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sim_stream.errors import InvalidInput, Unavailable

TRIAL_BYTES = 1 << 20  # less than any video, sheet or report takes would be no trial

REASONS = {
    errno.EACCES: "no permission to write",
    errno.EPERM: "no permission to write",
    errno.EROFS: "the file system is read-only",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.ENOTDIR: "not a folder",
    errno.EEXIST: "not a folder",
    errno.EISDIR: "a directory",
    errno.ENOENT: "no such directory",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "a link that leads to itself",
    errno.EFBIG: "a file would be larger than allowed",
    errno.EIO: "the disk fails",
    errno.EMFILE: "too many open files",
    errno.ENFILE: "too many open files",
}


def part_of(path: Path) -> Path:
    """The hidden neighbour under which this process writes a file until it is whole."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def try_file(field: str, path: Path, *, needs_bytes: int = TRIAL_BYTES) -> None:
    """Raises InvalidInput unless a file can be written there. Leaves nothing."""
    if not path.name or path.name == "..":
        raise InvalidInput(field, repr(str(path)), "the name of a file")
    allowed = "a file in a folder that is there and takes files"
    with _refused(field, path, allowed):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "", str(path))
        if path.exists() and not path.is_file():
            raise InvalidInput(field, f"{path} (not a regular file)", allowed)
        _write_and_forget(part_of(path), needs_bytes)
        if path.exists() and path.parent.stat().st_mode & 0o1000:
            _require_replaceable(path)


def try_folder(field: str, path: Path, *, needs_bytes: int = TRIAL_BYTES) -> None:
    """Raises InvalidInput unless files can be written into it, made with its parents where it is
    missing. Leaves nothing."""
    made: list[Path] = []
    with _refused(field, path, "a folder that takes files, or a name that is free for one"):
        try:
            for folder in [path, *path.parents][::-1]:
                if not folder.is_dir():
                    folder.mkdir()
                    made.append(folder)
            _write_and_forget(path / f".trial.{os.getpid()}.part", needs_bytes)
        finally:
            for folder in made[::-1]:
                with suppress(OSError):  # somebody else has put something there meanwhile
                    folder.rmdir()


@contextmanager
def said_plainly(path: Path) -> Iterator[None]:
    """What a user can do something about becomes Unavailable; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in REASONS:
            raise
        what = f" ({os.fsdecode(error.filename)})" if error.filename else ""
        raise Unavailable(f"{path}: {REASONS[error.errno]}{what}") from error


def write_whole(path: Path, content: bytes | str) -> None:
    """Leaves the file that was there, and no part of the new one, where it raises Unavailable."""
    data = content.encode() if isinstance(content, str) else content
    part = part_of(path)
    try:
        with said_plainly(path):
            part.write_bytes(data)
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def reason_of(error: OSError) -> str | None:
    """What is to be said of it; None: not one that is the user's to mend."""
    return REASONS.get(error.errno or 0)


@contextmanager
def _refused(field: str, path: Path, allowed: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = reason_of(error) or error.strerror or type(error).__name__
        raise InvalidInput(field, f"{path} ({reason})", allowed) from error


def _write_and_forget(path: Path, count: int) -> None:
    """Random bytes: a file system that compresses must find room for them, too."""
    try:
        with path.open("wb", buffering=0) as file:
            left = memoryview(os.urandom(count))
            while left:  # a disk that is nearly full takes a part of it first
                left = left[file.write(left) :]
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _require_replaceable(path: Path) -> None:
    """In a folder such as /tmp nobody but its owner may replace a file. Raises PermissionError."""
    owners = (path.lstat().st_uid, path.parent.stat().st_uid)
    if os.geteuid() not in (0, *owners):
        raise PermissionError(errno.EPERM, "", str(path))
