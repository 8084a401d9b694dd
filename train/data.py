"""Recorded drives in BDD100K's layout -> memory-mapped arrays that the stages read.

    python -m train data --drives data/drives --out data/cache

writes, per split, `frames.npy` (N 256 256 3 uint8), `actions.npy` (N 2 float32: speed in m/s, yaw
rate in rad/s, positive left) and `drives.json` ([{id, start, length}]). The action of a frame is
the motion that led to it. First version: GPS rows are interpolated at the frames' times; the full
rejection rules for real BDD100K files (gaps, duplicates, -1) are still to come.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sim_stream.errors import InvalidInput
from sim_stream.models.vq_model import from_pixels
from sim_stream.video import iter_frames

MIN_SPEED_MPS = 0.5  # below this a GPS course is noise


@dataclass(frozen=True)
class Drive:
    """A run of frames that belong together: rows [start, start + length) of a split's arrays."""

    id: str
    start: int
    length: int


@dataclass(frozen=True)
class Split:
    """One split's arrays; `ids` (N 256 uint16) is there once `tokenize` was run."""

    folder: Path
    frames: np.ndarray
    actions: np.ndarray
    drives: list[Drive]

    @classmethod
    def open(cls, cache: Path, split: str) -> Split:
        folder = cache / split
        if not (folder / "drives.json").is_file():
            raise InvalidInput("cache", folder, "a folder made by `python -m train data`")
        return cls(
            folder,
            np.load(folder / "frames.npy", mmap_mode="r"),
            np.load(folder / "actions.npy"),
            [Drive(**d) for d in json.loads((folder / "drives.json").read_text())],
        )

    def pixels(self, rows: np.ndarray | slice) -> Tensor:
        """Frames of those rows as fp32 in [-1, 1], (.. C H W); a copy of the memory map."""
        return from_pixels(torch.from_numpy(np.array(self.frames[rows])))

    def windows(self, length: int) -> np.ndarray:
        """Start rows of every run of `length` consecutive frames within one drive."""
        starts = [np.arange(d.start, d.start + d.length - length + 1) for d in self.drives]
        return np.concatenate([s for s in starts if len(s)])


def actions_at(info: dict, times_s: np.ndarray, fps: float) -> np.ndarray:
    """(N 2) float32: speed and yaw rate at frame times from BDD100K's `locations` rows."""
    rows = sorted(info["locations"], key=lambda row: row["timestamp"])
    t = (np.array([row["timestamp"] for row in rows], np.float64) - info["startTime"]) / 1000.0
    speed = np.interp(times_s, t, [row["speed"] for row in rows])
    course = np.interp(times_s, t, np.unwrap(np.radians([row["course"] for row in rows])))
    # Course is clockwise from north, yaw rate counter-clockwise.
    yaw = -np.diff(course, prepend=course[0]) * fps
    yaw[speed < MIN_SPEED_MPS] = 0.0
    return np.stack([speed, yaw], 1).astype(np.float32)


def read_drive(video: Path, info: Path, fps: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames (N size size 3) and their actions (N 2) of one recorded drive."""
    stamps, frames = zip(*iter_frames(video, fps=fps, size=size), strict=True)
    meta = json.loads(info.read_text())
    return np.stack(frames), actions_at(meta, np.array(stamps), fps)


def build_cache(drives: Path, out: Path, split: str, *, fps: int = 4, size: int = 256) -> int:
    """Reads every drive of a split; returns the number of frames."""
    videos = sorted((drives / "videos" / split).glob("*.mov"))
    if not videos:
        raise InvalidInput("drives", drives / "videos" / split, "a folder with .mov files")
    frames, actions, index, start = [], [], [], 0
    for video in tqdm(videos, desc=split, unit="drive"):
        info = drives / "info" / "100k" / split / f"{video.stem}.json"
        x, a = read_drive(video, info, fps, size)
        frames.append(x)
        actions.append(a)
        index.append({"id": video.stem, "start": start, "length": len(x)})
        start += len(x)
    folder = out / split
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "frames.npy", np.concatenate(frames))
    np.save(folder / "actions.npy", np.concatenate(actions))
    (folder / "drives.json").write_text(json.dumps(index))
    return start
