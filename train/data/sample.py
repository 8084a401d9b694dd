"""`data sample`: pixels and actions of the planned frames, preprocessed as in the paper.

    frames.npy (N H W 3 uint8), actions.npy (N 2 float32), drives.json ([{id, start, length}])

Rotation metadata applied, halved bilinearly, centre crop (``sim_stream.video``). Arrays are filled
under `.part` names by several processes; a run that was interrupted goes on.
"""

from __future__ import annotations

import json
import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from tqdm import tqdm

from sim_stream.outputs import said_plainly
from train.data.plan import Sampling, Task, job_of, make_plan
from train.data.split import FILES
from train.data.work import Journal, check_room, run_all, write_text
from sim_stream.plain_json import to_json


def allocate(path: Path, shape: tuple[int, ...], dtype: Any) -> None:
    """An array file of that shape; an existing one is kept. Raises Unavailable.

    Its room is taken at once: a disk that is full by the time a page is written kills the process.
    """
    if path.is_file():
        return
    partial_path = path.with_suffix(".new")
    try:
        with said_plainly(path):
            open_memmap(partial_path, "w+", dtype, shape).flush()
            take_room(partial_path)
            os.replace(partial_path, path)
    finally:
        partial_path.unlink(missing_ok=True)


def take_room(path: Path) -> None:
    """Every block of a sparse file. Raises OSError."""
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def fill(task: Task, frames: Path) -> tuple[Task, np.ndarray]:
    """Decodes one file into its rows of the array; gives its actions."""
    x, actions = task.read()
    array = np.load(frames, mmap_mode="r+")
    array[task.start : task.start + task.length] = x
    array.flush()
    return task, actions


def sample(
    manifest: Path, out: Path, sampling: Sampling, *, workers: int, limit: int | None = None
) -> int:
    """Fills `out` from a manifest; gives the number of frames. Raises InvalidInput."""
    tasks = make_plan(manifest, sampling, limit)
    total = sum(task.length for task in tasks)
    journal = Journal(out / "sample.jsonl", job_of(manifest, sampling, tasks))
    if (out / FILES.drives).is_file():
        return total
    left = [task for task in tasks if task.id not in journal.rows]
    check_room(out, sum(task.length for task in left) * math.prod(sampling.size.shape))
    part = out / f"{FILES.frames}.part"
    allocate(part, (total, *sampling.size.shape), np.uint8)
    actions = allocate_actions(out, total)
    results = run_all(partial(fill, frames=part), left, workers)
    done = len(tasks) - len(left)
    for task, driven in tqdm(results, f"sample {out.name}", len(tasks), initial=done, unit="file"):
        actions[task.start : task.start + task.length] = driven
        actions.flush()
        journal.add({"id": task.id})
    os.replace(part, out / FILES.frames)
    finish(out, tasks)
    return total


def allocate_actions(out: Path, total: int) -> np.memmap:
    part = out / f"{FILES.actions}.part"
    allocate(part, (total, 2), np.float32)
    actions: np.memmap = np.load(part, mmap_mode="r+")
    return actions


def finish(out: Path, tasks: list[Task]) -> None:
    """Final names; drives.json comes last: its presence says that the folder is complete."""
    os.replace(out / f"{FILES.actions}.part", out / FILES.actions)
    drives = [vars(drive) for task in tasks for drive in task.drives()]
    write_text(out / FILES.drives, to_json(drives))
