"""One split's arrays as the stages read them; whoever writes them is not known here.

Legend: N frames of the split, H height, W width.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sim_stream.errors import InvalidInput
from sim_stream.models.vq_model import from_pixels
from train.data.ids import open_ids


class Files(NamedTuple):
    frames: str = "frames.npy"
    actions: str = "actions.npy"
    drives: str = "drives.json"
    ids: str = "ids.bin"
    mirrored_ids: str = "mirrored_ids.bin"


FILES = Files()


@dataclass(frozen=True)
class Drive:
    """A run of frames that belong together: rows [start, start + length) of a split's arrays."""

    id: str
    start: int
    length: int


@dataclass(frozen=True)
class Split:
    """`frames` (N H W 3 uint8) is None where ids were made from videos directly."""

    folder: Path
    frames: np.ndarray | None
    actions: np.ndarray  # (N 2) speed in m/s, yaw rate in rad/s, left positive; nan: unknown
    drives: list[Drive]

    @classmethod
    def open(cls, cache: Path, split: str) -> Split:
        """Raises InvalidInput where the split is missing or not finished."""
        folder = cache / split
        if not (folder / FILES.drives).is_file():
            begun = any(folder.glob("*.part"))
            given = f"{folder} ({'not finished' if begun else 'no split there'})"
            raise InvalidInput("cache", given, "a folder made by `python -m train data sample`")
        frames = folder / FILES.frames
        return cls(
            folder,
            np.load(frames, mmap_mode="r") if frames.is_file() else None,
            np.load(folder / FILES.actions),
            [Drive(**d) for d in json.loads((folder / FILES.drives).read_text())],
        )

    def __len__(self) -> int:
        return len(self.actions)

    def images(self, rows: np.ndarray | slice) -> np.ndarray:
        """uint8 (.. H W 3), copied from the memory map. Raises InvalidInput without pixels."""
        if self.frames is None:
            raise InvalidInput("cache", f"{self.folder} (ids only)", "a split with frames.npy")
        return np.array(self.frames[rows])

    def pixels(self, rows: np.ndarray | slice) -> Tensor:
        """Frames of those rows as fp32 in [-1, 1], (.. C H W)."""
        return from_pixels(torch.from_numpy(self.images(rows)))

    def ids(self, tokenizer: str | None = None) -> np.ndarray:
        """(N codes) uint16, memory-mapped; `tokenizer`: the SHA-256 they must be bound to."""
        return open_ids(self.folder / FILES.ids, len(self), tokenizer)

    def mirrored_ids(self, tokenizer: str | None = None) -> np.ndarray | None:
        """Ids of the same frames with left and right exchanged, where they were made."""
        path = self.folder / FILES.mirrored_ids
        return open_ids(path, len(self), tokenizer) if path.is_file() else None

    def drive_at(self, row: int) -> Drive:
        """The drive that this row lies in."""
        return next(d for d in self.drives if d.start <= row < d.start + d.length)

    def windows(self, length: int) -> np.ndarray:
        """Start rows of every run of `length` consecutive frames within one drive."""
        starts = [np.arange(d.start, d.start + d.length - length + 1) for d in self.drives]
        found = np.concatenate([np.empty(0, np.int64), *starts])
        if not len(found):
            raise InvalidInput(
                "cache", f"{self.folder} with no run of {length} frames", "longer drives"
            )
        return found
