"""Which frames of which drives are used, and at which rows of the arrays they stand.

The number of samples of a video follows from its manifest line alone, so all arrays are allocated
before anything is decoded and workers fill their own rows.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from sim_stream.config import FrameSize
from sim_stream.errors import InvalidInput
from sim_stream.video import SIZE, iter_frames
from train.data.bdd100k import FOLDERS, stem_of
from train.data.ego import actions_at, read_track
from train.data.manifest import facts_of, file_sha256, read_manifest, require_size
from train.data.split import Drive


MAX_FPS = 1000.0


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """`fps` by timestamp; of every `every` samples only the first `keep` are kept (0: all).

    Paper: 4 fps for videos, 0.2 fps for the tokenizer's images. Clips of three frames every five
    seconds (keep 3, every 20) serve the video decoder where 4 fps in full would need terabytes.
    """

    fps: float = 4.0
    size: FrameSize = SIZE
    keep: int = 0
    every: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.fps <= MAX_FPS:
            raise InvalidInput("fps", self.fps, f"above 0, up to {MAX_FPS:g}")
        require_size(self.size)
        if self.keep and not 0 < self.keep <= self.every:
            raise InvalidInput("keep", self.keep, f"1..{self.every}, the value of `every`")
        if self.every and not self.keep:
            raise InvalidInput("every", self.every, "only together with `keep`")

    def kept(self, samples: int) -> list[range]:
        """Runs of consecutive kept sample indices; runs that the end cuts short are dropped."""
        if not self.keep:
            return [range(samples)]
        starts = range(0, samples - self.keep + 1, self.every)
        return [range(start, start + self.keep) for start in starts]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One file's part of the arrays: rows [start, start + length)."""

    id: str
    media: Path
    info: Path
    sha256: str
    lead_s: Fraction  # of the recording before the first picture, from where frames are counted
    start: int
    samples: int
    runs: list[range]
    sampling: Sampling

    @property
    def length(self) -> int:
        return sum(len(run) for run in self.runs)

    def drives(self) -> list[Drive]:
        starts = np.cumsum([self.start, *map(len, self.runs)])
        return [
            Drive(id=self.id, start=int(start), length=len(run))
            for start, run in zip(starts, self.runs, strict=False)
        ]

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Kept frames (n H W 3) and their actions (n 2). Raises InvalidInput."""
        wanted = {index for run in self.runs for index in run}
        frames, times, count = [], [], 0
        for index, (time, frame) in enumerate(
            iter_frames(self.media, self.sampling.fps, self.sampling.size)
        ):
            count += 1
            if index in wanted:
                frames.append(frame)
                times.append(time)
        if count != self.samples:
            raise InvalidInput("video", f"{self.media} ({count} samples)",
                               f"{self.samples}, as when it was scanned: scan again")
        track, _ = read_track(self.info)
        times_s = np.array(times) + float(self.lead_s)
        return np.stack(frames), actions_at(track, times_s, self.sampling.fps)


def make_plan(manifest: Path, sampling: Sampling, limit: int | None = None) -> list[Task]:
    """Tasks of all usable files of a manifest, at most `limit`, evenly spread over them."""
    header, rows = read_manifest(manifest)
    scanned = FrameSize.parse(header["size"])
    if scanned.height < sampling.size.height or scanned.width < sampling.size.width:
        raise InvalidInput("size", sampling.size, f"up to the scanned {scanned}")
    root, split = Path(header["root"]), header["split"]
    folder, suffix = FOLDERS[header["kind"]]
    usable = [row for row in rows if row["rejected"] is None]
    if limit is not None and limit < len(usable):
        usable = [usable[i] for i in np.linspace(0, len(usable) - 1, limit).astype(int)]
    tasks, start = [], 0
    for row in usable:
        samples = facts_of(row).samples(sampling.fps)
        task = Task(
            id=row["id"],
            media=root / folder / split / f"{stem_of(row)}{suffix}",
            info=root / "info" / "100k" / split / f"{stem_of(row)}.json",
            sha256=row["sha256"],
            lead_s=Fraction(row["lead_s"]),
            start=start,
            samples=samples,
            runs=sampling.kept(samples),
            sampling=sampling,
        )
        if task.length:
            tasks.append(task)
            start += task.length
    if not tasks:
        raise InvalidInput("manifest", manifest, "at least one usable file long enough to sample")
    missing = [task.media for task in tasks if not task.media.is_file()]
    if missing:
        raise InvalidInput("root", f"{root} without {len(missing)} files of the manifest, first "
                           f"{missing[0].name}", "the data set that was scanned")
    return tasks


def job_of(manifest: Path, sampling: Sampling, tasks: list[Task]) -> dict[str, Any]:
    """What a folder's arrays were made from; another job may not go on in it."""
    return {
        "format": 1,
        "manifest_sha256": file_sha256(manifest),
        **asdict(sampling),
        "size": str(sampling.size),
        "files": len(tasks),
    }
