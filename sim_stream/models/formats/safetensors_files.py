"""Tensors of safetensors files: one file, a folder of them, or shards with an index.

Headers are read first, tensors memory-mapped and handed out one by one. A header is read here, too,
before the library sees it: its length, nesting and keys are bounded. Knows no model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from sim_stream import files as plain
from sim_stream.errors import CheckpointError
from sim_stream.models.formats.source import Shape

SUFFIX, INDEX_SUFFIX = ".safetensors", ".safetensors.index.json"
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
MAX_HEADER_BYTES = 8 << 20  # a hundred bytes a tensor; the largest models' are of 2 MB


class Header(NamedTuple):
    shape: Shape
    dtype: str
    file: Path


@dataclass(frozen=True, kw_only=True)
class Files:
    """`headers` of all keys; `metadata` of the first file."""

    path: Path
    files: tuple[Path, ...]
    headers: Mapping[str, Header]
    metadata: Mapping[str, str]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor, file by file; each is a view of a mapping that ends with its last view."""
        for file in self.files:
            yield from file_tensors(file)


def file_tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one file. Raises CheckpointError."""
    with opened(file) as handle:
        for key in handle.keys():  # noqa: SIM118 - the handle is no mapping
            yield key, handle.get_tensor(key)


def find(path: Path) -> tuple[Path, ...]:
    """The safetensors files that `path` means: itself, an index's, or a folder's."""
    if path.is_file():
        return _indexed(path) if path.name.endswith(INDEX_SUFFIX) else (path,)
    indexes = sorted(path.glob(f"*{INDEX_SUFFIX}"))
    if len(indexes) > 1:
        raise CheckpointError(f"{path}: {len(indexes)} indexes; name the one that is meant")
    if indexes:
        return _indexed(indexes[0])
    return tuple(sorted(path.glob(f"*{SUFFIX}")))


def read(path: Path, files: Iterable[Path] | None = None) -> Files:
    """Headers of all tensors under `path`. Raises CheckpointError."""
    found = tuple(find(path) if files is None else files)
    if not found:
        raise CheckpointError(f"{path}: no {SUFFIX} file there")
    headers: dict[str, Header] = {}
    for file in found:
        with opened(file) as handle:
            for key in handle.keys():  # noqa: SIM118
                if key in headers:
                    raise CheckpointError(f"{file}: {key} is also in {headers[key].file.name}")
                part = handle.get_slice(key)
                dtype = part.get_dtype()
                headers[key] = Header(tuple(part.get_shape()), DTYPES.get(dtype, dtype), file)
    with opened(found[0]) as handle:
        metadata = handle.metadata() or {}
    return Files(path=path, files=found, headers=headers, metadata=metadata)


@contextmanager
def opened(file: Path) -> Iterator[Any]:
    """A safetensors handle whose faults are CheckpointErrors that name the file."""
    check_header(file)
    try:
        with safe_open(file, framework="pt") as handle:
            yield handle
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: not a safetensors file: {error}") from error


def check_header(file: Path) -> None:
    """Raises CheckpointError where a header is too long, repeats a key or nests too deeply."""
    with plain.open_regular(file) as raw:
        start = raw.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > MAX_HEADER_BYTES:
            said = f"a header of {length:,} bytes; {MAX_HEADER_BYTES:,} at most"
            raise CheckpointError(f"{file}: not a safetensors file: {said}")
        try:
            header = plain.parse_json(raw.read(length))
        except ValueError as error:
            raise CheckpointError(f"{file}: not a safetensors file: its header: {error}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{file}: not a safetensors file: its header is no JSON object")


def _indexed(index: Path) -> tuple[Path, ...]:
    names = plain.read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
        raise CheckpointError(f"{index}: no weight_map of file names")
    files = sorted(set(names.values()))
    foreign = [name for name in files if plain.escapes(name)]
    missing = [name for name in files if not (foreign or (index.parent / name).is_file())]
    if foreign or missing:
        raise CheckpointError(f"{index}: shards missing {missing}, outside the folder {foreign}")
    return tuple(index.parent / name for name in files)
