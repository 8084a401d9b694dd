"""The file of a split's ids: a versioned header bound to the tokenizer, then uint16 rows.

    8 bytes  magic "SIMIDS01"
    4 bytes  length of the header, little-endian
    header   JSON: version, frames, codes_per_frame, num_codes, tokenizer_sha256, mirrored
    zeros    up to byte 4096, then frames x codes_per_frame little-endian uint16

A fixed offset keeps rows aligned for memory-mapping. Opening checks magic, version and length; ids
of another tokenizer are refused, for a world model trained on them would learn another language.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from sim_stream.errors import CheckpointError, InvalidInput
from sim_stream.models.vq_model import VQModel
from sim_stream.plain_json import to_json

MAGIC, VERSION, OFFSET = b"SIMIDS01", 1, 4096


@dataclass(frozen=True, kw_only=True)
class IdsHeader:
    frames: int
    codes_per_frame: int
    num_codes: int
    tokenizer_sha256: str
    mirrored: bool = False

    def __post_init__(self) -> None:
        if self.num_codes > 1 << 16:
            raise InvalidInput("num_codes", self.num_codes, "up to 65536: ids are uint16")


def tokenizer_sha256(model: VQModel) -> str:
    """Hash of all weights that ids depend on, as they are stored (half precision).

    A tokenizer has the same hash before and after it was packed into a weights folder.
    """
    digest = hashlib.sha256()
    parts = ("encoder.", "quant_conv.", "quantize.")
    for name, value in sorted(model.state_dict().items()):
        if name.startswith(parts):
            digest.update(f"{name}{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().half().contiguous().numpy().tobytes())
    return digest.hexdigest()


def create_ids(path: Path, header: IdsHeader) -> None:
    """A file of that header and zero ids, sparse until it is filled."""
    text = to_json({"version": VERSION, **asdict(header)}).encode()
    with path.open("wb") as file:
        file.write(MAGIC + struct.pack("<I", len(text)) + text)
        file.truncate(OFFSET + header.frames * header.codes_per_frame * 2)


def read_header(path: Path) -> IdsHeader:
    """Raises CheckpointError where the file is missing, foreign, of another version or cut off."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; make it with `python -m train data tokenize`")
    with path.open("rb") as file:
        start = file.read(OFFSET)
    if start[:8] != MAGIC:
        raise CheckpointError(f"{path}: not a file of ids ({start[:8]!r})")
    (length,) = struct.unpack("<I", start[8:12])
    values = json.loads(start[12 : 12 + length])
    version = values.pop("version")
    if version != VERSION:
        raise CheckpointError(f"{path}: ids of version {version}; this code reads {VERSION}")
    header = IdsHeader(**values)
    expected = OFFSET + header.frames * header.codes_per_frame * 2
    if path.stat().st_size != expected:
        raise CheckpointError(f"{path}: {path.stat().st_size} bytes, {expected} expected: cut off")
    return header


def map_ids(path: Path, mode: Literal["r", "r+"] = "r") -> np.memmap:
    """The ids (N codes_per_frame) as a memory map."""
    header = read_header(path)
    shape = (header.frames, header.codes_per_frame)
    return np.memmap(path, "<u2", mode, OFFSET, shape)


def open_ids(path: Path, frames: int, tokenizer: str | None = None) -> np.ndarray:
    """Ids of a split of that many frames, made by that tokenizer (its SHA-256) if one is given."""
    header = read_header(path)
    if header.frames != frames:
        raise CheckpointError(f"{path}: ids of {header.frames} frames, the split has {frames}")
    if tokenizer is not None and header.tokenizer_sha256 != tokenizer:
        raise CheckpointError(
            f"{path}: made by tokenizer {header.tokenizer_sha256[:12]}, the one in use is "
            f"{tokenizer[:12]}; run `python -m train data tokenize` with it"
        )
    return map_ids(path)
