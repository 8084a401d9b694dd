"""Runs of consecutive frames as id sequences: what the world model is trained on.

Legend: B batch, T frames, S positions, N codes of a frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sim_stream.config import Preset
from sim_stream.errors import InvalidInput
from sim_stream.layout import FrameLayout
from train.data.ego import action_ids
from train.data.split import Split
from train.parallel import WHOLE, Share

CANDIDATES = 2  # to be another drive: with four lights, seven in eight are of another


@dataclass(frozen=True, kw_only=True)
class Draw:
    """How sequences are drawn: `frames` each, `batch` a step; `unknown`: share without actions.

    `sink_frames` of the frames are from any time of the drive before the others, as a session
    keeps them (`SessionConfig.sink_frames`).
    """

    frames: int
    batch: int
    seed: int = 0
    unknown: float = 0.0
    sink_frames: int = 0


class Sequences:
    """[prompt text] ( [action ids] codes, end of frame )*; the batch follows from (seed, step).

    Where a split has mirrored ids, its drives count twice: as they were, and mirrored with their
    yaw rates negated. Ids stay memory-mapped.
    """

    def __init__(
        self,
        split: Split,
        preset: Preset,
        draw: Draw,
        *,
        prompt_ids: tuple[int, ...] = (),
        tokenizer: str | None = None,
    ) -> None:
        """`tokenizer`: the SHA-256 that the ids must be bound to."""
        if bool(preset.prompt) != bool(prompt_ids):
            wanted = f"the text ids of {preset.prompt!r}" if preset.prompt else "none"
            raise InvalidInput("prompt_ids", list(prompt_ids), wanted)
        self.draw, self.prompt = draw, np.array(prompt_ids, np.int64)
        self.layout = FrameLayout.of(preset, prompt_length=len(prompt_ids))
        self.ids = split.ids(tokenizer)
        self.mirrored = split.mirrored_ids(tokenizer)
        self.leads = action_ids(self.layout, split.actions)
        self.unknown = np.array(self.layout.action_ids(None), np.int64)
        self.starts = split.windows(draw.frames)
        self.drive_starts = np.zeros(len(split), np.int64)
        for drive in split.drives:
            self.drive_starts[drive.start : drive.start + drive.length] = drive.start
        if self.mirrored is not None:
            mirror = np.array([1.0, -1.0], np.float32)
            leads = action_ids(self.layout, split.actions * mirror)
            self.leads = np.concatenate([self.leads, leads])
            self.starts = np.concatenate([self.starts, self.starts + len(self.ids)])
            mirrored = self.drive_starts + len(self.ids)
            self.drive_starts = np.concatenate([self.drive_starts, mirrored])

    def codes(self, rows: np.ndarray) -> np.ndarray:
        """int64 codes (.. N); rows from the split's length on are mirrored ones."""
        n = len(self.ids)
        found = self.ids[rows % n].astype(np.int64)
        if self.mirrored is not None and (rows >= n).any():
            found[rows >= n] = self.mirrored[rows[rows >= n] - n]
        return found

    def at(
        self,
        starts: np.ndarray,
        *,
        known: np.ndarray | None = None,
        ages: np.ndarray | None = None,
    ) -> Tensor:
        """(B S) int64 of the runs that begin there; `known` (B) bool: with their actions.

        `ages` (B) in 0..1: how far back in its drive a run's first frames are, 1: at its start.
        """
        rows = starts[:, None] + np.arange(self.draw.frames)
        if self.draw.sink_frames:
            age = np.ones(len(starts)) if ages is None else ages
            most = starts - self.drive_starts[starts]
            back = np.minimum(age * (most + 1), most).astype(np.int64)
            rows[:, : self.draw.sink_frames] -= back[:, None]
        leads = self.leads[rows]
        if known is not None:
            leads = np.where(known[:, None, None], leads, self.unknown)
        ends = np.full((*rows.shape, 1), self.layout.end_of_frame)
        frames = np.concatenate([leads, self.codes(rows), ends], -1).reshape(len(rows), -1)
        prompt = np.broadcast_to(self.prompt, (len(rows), len(self.prompt)))
        return torch.from_numpy(np.concatenate([prompt, frames], 1))

    def __call__(self, step: int, share: Share = WHOLE) -> Tensor:
        draw = self.draw
        rng = self._rng(step)
        starts = rng.choice(self.starts, draw.batch)
        known = rng.random(draw.batch) >= draw.unknown
        ages = rng.random(draw.batch)
        mine = share.rows(draw.batch)
        return self.at(starts[mine], known=known[mine], ages=ages[mine])

    def others(self, step: int, share: Share = WHOLE) -> Tensor:
        """(B S) runs of other drives, as many: where foreign codes come from.

        Each is the least alike of `CANDIDATES`: that with the fewest codes in common.
        """
        draw = self.draw
        own = self._rng(step).choice(self.starts, draw.batch)[share.rows(draw.batch)]
        found = np.random.default_rng((draw.seed, step, 1)).choice(
            self.starts, (draw.batch, CANDIDATES)
        )
        starts = []
        for start, candidates in zip(own, found[share.rows(draw.batch)], strict=True):
            alike = np.isin(self.codes(candidates), self.codes(start[None])).mean(-1)
            starts.append(candidates[alike.argmin()])
        return self.at(np.array(starts))

    def _rng(self, step: int) -> np.random.Generator:
        """Of one step's batch; its starts are drawn first."""
        return np.random.default_rng((self.draw.seed, step))

    def evenly(self, count: int) -> Tensor:
        """(count S) runs spread over the whole split."""
        picked = np.linspace(0, len(self.starts) - 1, count).astype(int)
        return self.at(self.starts[picked])
