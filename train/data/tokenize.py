"""`data tokenize`: ids of every frame, from a sampled folder or from videos directly.

From videos no pixels are kept: 70,000 drives at 4 fps are 2.2 TB of frames and 5.7 GB of ids.
Both go on where they were interrupted.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from sim_stream.errors import InvalidInput, Unavailable
from sim_stream.models.layers import channels_last
from sim_stream.models.vq_model import VQModel, from_pixels
from sim_stream.outputs import said_plainly
from train.data.ids import IdsHeader, create_ids, map_ids, read_header, tokenizer_sha256
from train.data.plan import Sampling, Task, job_of, make_plan
from train.data.sample import allocate_actions, finish, take_room
from train.data.split import FILES, Split
from train.data.work import Journal, check_room, run_all

# Frames between two entries of the journal, whatever the batch: a run goes on with another batch.
# Not drives, which may be clips of three frames.
CHUNK = 64


@torch.inference_mode()
def encode(model: VQModel, frames: np.ndarray, *, mirrored: bool, batch: int) -> np.ndarray:
    """uint8 frames (n H W 3) -> ids (n codes) uint16, on the model's device."""
    device = model.quantize.embedding.weight.device
    ids = []
    for i in range(0, len(frames), batch):
        x = from_pixels(torch.from_numpy(frames[i : i + batch]).to(device))
        ids.append(model.encode(x.flip(-1) if mirrored else x).cpu())
    return torch.cat(ids).numpy().astype(np.uint16)


def header_for(model: VQModel, frames: int, *, mirrored: bool) -> IdsHeader:
    return IdsHeader(
        frames=frames,
        codes_per_frame=model.config.codes_per_frame,
        num_codes=model.config.num_vq_embeddings,
        tokenizer_sha256=tokenizer_sha256(model),
        mirrored=mirrored,
    )


def begin(folder: Path, name: str, header: IdsHeader, job: dict[str, Any]) -> tuple[Path, Journal]:
    """The unfinished ids file and its journal: new, or what an interrupted run left."""
    part = folder / f"{name}.part"
    journal = Journal(folder / f"{name}.jsonl", {**job, **asdict(header)})
    if not part.is_file():
        journal.path.unlink()
        journal = Journal(journal.path, {**job, **asdict(header)})
        check_room(folder, header.frames * header.codes_per_frame * 2)
        try:
            with said_plainly(part):
                create_ids(part, header)
                take_room(part)
        except Unavailable:
            part.unlink(missing_ok=True)
            raise
    elif read_header(part) != header:
        raise InvalidInput("out", part, "an unfinished file of the same job")
    return part, journal


def tokenize(split: Split, model: VQModel, *, mirrored: bool = False, batch: int = 16) -> Path:
    """Writes the split's ids file; one that this tokenizer already made is left as it is."""
    channels_last(model)
    name = FILES.mirrored_ids if mirrored else FILES.ids
    header, path = header_for(model, len(split), mirrored=mirrored), split.folder / name
    if path.is_file() and read_header(path) == header:
        return path
    part, journal = begin(split.folder, name, header, {})
    out = map_ids(part, "r+")
    with tqdm(None, name, len(split), unit="frame") as bar:
        for start in range(0, len(split), CHUNK):
            rows = slice(start, min(start + CHUNK, len(split)))
            if str(start) not in journal.rows:
                out[rows] = encode(model, split.images(rows), mirrored=mirrored, batch=batch)
                out.flush()
                journal.add({"id": str(start)})
            bar.update(rows.stop - rows.start)
    os.replace(part, path)
    journal.path.unlink()
    return path


def read_task(task: Task) -> tuple[Task, np.ndarray, np.ndarray]:
    return task, *task.read()


def tokenize_videos(
    manifest: Path,
    out: Path,
    model: VQModel,
    sampling: Sampling,
    *,
    workers: int,
    batch: int = 16,
    limit: int | None = None,
) -> int:
    """A split of ids and actions without pixels; gives the number of frames."""
    channels_last(model)
    tasks = make_plan(manifest, sampling, limit)
    total = sum(task.length for task in tasks)
    header = header_for(model, total, mirrored=False)
    if (out / FILES.drives).is_file():
        if read_header(out / FILES.ids) == header:
            return total
        raise InvalidInput("out", f"{out} with ids of another job", "an empty folder")
    out.mkdir(parents=True, exist_ok=True)
    part, journal = begin(out, FILES.ids, header, job_of(manifest, sampling, tasks))
    array, driven = map_ids(part, "r+"), allocate_actions(out, total)
    left = [task for task in tasks if task.id not in journal.rows]
    results = run_all(read_task, left, workers)
    bar = tqdm(results, f"tokenize {out.name}", len(tasks), unit="file")
    bar.update(len(tasks) - len(left))
    for task, frames, actions in bar:
        rows = slice(task.start, task.start + task.length)
        array[rows] = encode(model, frames, mirrored=False, batch=batch)
        driven[rows] = actions
        array.flush()
        driven.flush()
        journal.add({"id": task.id})
    os.replace(part, out / FILES.ids)
    finish(out, tasks)
    return total
