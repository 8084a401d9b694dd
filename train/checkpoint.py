"""Checkpoints of a run: `step-00001000.pt`, written whole or not at all, the newest few kept.

A file appears under its name only after its bytes are on the disk. An older one is removed only
after a newer one is there, so a full disk costs the newest checkpoint, never the last good one.
"""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from sim_stream.errors import CheckpointError, SimStreamError
from sim_stream.files import open_regular

FORMAT = 1


def path_of(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.pt"


def find(folder: Path) -> list[Path]:
    """All checkpoints of a run, oldest first."""
    return sorted(folder.glob("step-*.pt"))


def write(folder: Path, step: int, state: Mapping[str, Any], keep: int) -> Path:
    """Raises OSError where the disk does not take it; nothing else has changed then."""
    folder.mkdir(parents=True, exist_ok=True)
    path = path_of(folder, step)
    partial = path.with_suffix(".part")
    try:
        with partial.open("wb") as file:
            save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    for old in find(folder)[:-keep]:
        old.unlink()
    return path


def save(state: dict[str, Any], file: Any) -> None:
    """torch.save that reports a failed write as the OSError it is."""

    class Watched:
        failure: OSError | None = None

        def write(self, data: Any) -> int:
            try:
                written: int = file.write(data)
            except OSError as error:
                Watched.failure = error
                raise
            return written

        def flush(self) -> None:
            file.flush()

    try:
        torch.save({"format": FORMAT, **state}, Watched())  # type: ignore[arg-type]
    except RuntimeError as error:
        # The archive writer hides the cause; its own complaint comes while it unwinds.
        if Watched.failure is None:
            raise
        raise Watched.failure from error


def load(path: Path) -> dict[str, Any]:
    """Raises CheckpointError where the file is missing, cut off or foreign."""
    with open_regular(path) as file:
        _refuse_bombs(file, path)
        try:
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a broken archive or pickle fails in any way
            reason = str(error).split("\n")[0][:300] or type(error).__name__
            raise CheckpointError(f"{path}: cannot be read: {reason}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a training checkpoint of format {FORMAT}")
    return state


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Raises CheckpointError where what is read from a checkpoint's state is missing or of another
    kind: it is in the form of one, and somebody edited it."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        if isinstance(error, SimStreamError):
            raise
        reason = str(error).split("\n")[0][:300]
        said = f"{type(error).__name__}: {reason}"
        raise CheckpointError(f"{path}: its state does not fit this training: {said}") from error


def _refuse_bombs(file: BinaryIO, path: Path) -> None:
    """Raises CheckpointError where the archive is none, or its members are more than its bytes:
    PyTorch stores them uncompressed, each once."""
    size = os.fstat(file.fileno()).st_size
    try:
        members = zipfile.ZipFile(file).infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise CheckpointError(f"{path}: cannot be read: no PyTorch archive: {error}") from error
    stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
    if not stored or sum(member.file_size for member in members) > size:
        raise CheckpointError(f"{path}: cannot be read: its members are larger than the file")
    file.seek(0)


def latest(folder: Path) -> dict[str, Any]:
    """The newest checkpoint of a run. Raises CheckpointError."""
    found = find(folder)
    if not found:
        raise CheckpointError(f"{folder}: no checkpoint there (step-*.pt)")
    return load(found[-1])


def check_identity(state: Mapping[str, Any], identity: Mapping[str, Any], path: Path) -> None:
    """Raises CheckpointError where a checkpoint was made by another configuration."""
    found = state["identity"]
    wrong = sorted(key for key in {*found, *identity} if found.get(key) != identity.get(key))
    if wrong:
        texts = [f"{key}: {found.get(key)} against {identity.get(key)}" for key in wrong]
        raise CheckpointError(f"{path}: made by another configuration: " + "; ".join(texts))
