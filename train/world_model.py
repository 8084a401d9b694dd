"""Stage 2: next-token prediction of frame ids with actions, teacher forcing, loss on codes only.

First version: full training of a small model on runs of consecutive frames. (LoRA on the 7B model
belongs to the full training.) Actions are dropped to `unknown` for whole runs now and then, so that
a null action means something.

Legend: B batch, T frames, S positions, N codes of a frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from sim_stream.config import Action, Preset
from sim_stream.layout import FrameLayout
from sim_stream.models import checkpoints
from sim_stream.models.layers import channels_last
from sim_stream.models.vq_model import VQModel
from sim_stream.models.world_model import WorldModel
from train.data import Split
from train.loop import LoopConfig, Trainer

UNKNOWN_ACTIONS = 0.1  # share of runs without any action
MIRRORED = "mirrored_ids.npy"


@torch.inference_mode()
def tokenize(split: Split, model: VQModel, *, mirrored: bool = False, batch: int = 16) -> Path:
    """Writes `ids.npy` (N codes, uint16) beside a split's frames.

    `mirrored`: `mirrored_ids.npy`, of the same frames with left and right exchanged.
    """
    channels_last(model)
    name = MIRRORED if mirrored else "ids.npy"
    ids = []
    for i in tqdm(range(0, len(split.frames), batch), desc=name, unit="batch"):
        x = split.pixels(slice(i, i + batch))
        ids.append(model.encode(x.flip(-1) if mirrored else x).to(torch.int32))
    path = split.folder / name
    np.save(path, torch.cat(ids).numpy().astype(np.uint16))
    return path


class Sequences:
    """Runs of consecutive frames as id sequences, drawn from (seed, step, rank).

    Where a split has mirrored ids, its drives count twice: as they were, and mirrored with their
    yaw rates negated.
    """

    def __init__(
        self, split: Split, preset: Preset, frames: int, batch: int, seed: int, rank: int = 0
    ) -> None:
        self.layout = FrameLayout.of(preset, prompt_length=0)
        self.ids = np.load(split.folder / "ids.npy").astype(np.int64)
        self.leads = self.action_ids(split.actions)
        self.unknown = np.array(self.layout.action_ids(None))
        self.starts, self.frames = split.windows(frames), frames
        if (split.folder / MIRRORED).is_file():
            self.starts = np.concatenate([self.starts, self.starts + len(self.ids)])
            self.ids = np.concatenate([self.ids, np.load(split.folder / MIRRORED)])
            mirror = np.array([1.0, -1.0], np.float32)
            self.leads = np.concatenate([self.leads, self.action_ids(split.actions * mirror)])
        self.batch, self.seed, self.rank = batch, seed, rank

    def action_ids(self, actions_N2: np.ndarray) -> np.ndarray:
        return np.array(
            [
                self.layout.action_ids(Action(speed_mps=float(s), yaw_rate_radps=float(y)))
                for s, y in actions_N2
            ]
        )

    def at(self, starts: np.ndarray, *, known: np.ndarray | None = None) -> Tensor:
        """(B S) int64: for every frame its action ids, codes, end of frame."""
        rows = starts[:, None] + np.arange(self.frames)
        leads = self.leads[rows]
        if known is not None:
            leads = np.where(known[:, None, None], leads, self.unknown)
        ends = np.full((*rows.shape, 1), self.layout.end_of_frame)
        return torch.from_numpy(np.concatenate([leads, self.ids[rows], ends], -1)).flatten(1)

    def __call__(self, step: int) -> Tensor:
        rng = np.random.default_rng((self.seed, step, self.rank))
        starts = rng.choice(self.starts, self.batch)
        return self.at(starts, known=rng.random(self.batch) >= UNKNOWN_ACTIONS)


def code_losses(model: WorldModel, layout: FrameLayout, ids_BS: Tensor) -> Tensor:
    """Cross-entropy in nats of every code, (B T N): each predicted from all ids before it."""
    hidden_BSD = model(ids_BS[:, :-1])
    hidden_BTLD = F.pad(hidden_BSD, (0, 0, 1, 0)).unflatten(1, (-1, layout.frame_length))
    first = layout.actions_per_frame
    codes = slice(first, first + layout.codes_per_frame)
    logits = model.vision_logits(hidden_BTLD[:, :, codes], layout.num_codes)
    targets = ids_BS.unflatten(1, (-1, layout.frame_length))[:, :, codes]
    losses = F.cross_entropy(logits.flatten(0, 2).float(), targets.flatten(), reduction="none")
    return losses.view(targets.shape)


@torch.no_grad()
def init_from_codebook(model: WorldModel, codebook_KD: Tensor, std: float = 0.02) -> None:
    """Embeddings and head rows of the codes start as one random rotation of their code vectors.

    Codes that look alike then begin alike, so that what is learnt of one is known of its
    neighbours: with a few million ids most codes are rare. A little noise keeps rows distinct.
    """
    codes, width = len(codebook_KD), model.config.hidden_size
    centred = codebook_KD - codebook_KD.mean(0)
    basis, _ = torch.linalg.qr(torch.randn(width, centred.shape[1]))
    rows = centred @ basis.T
    rows *= std / rows.std()
    for weight in (model.vte.weight, model.vision_head.weight):
        weight[:codes] = rows + 0.2 * std * torch.randn_like(rows)


class WorldModelStage:
    """Loss on frames 2..T: the first frame of a run has nothing to be predicted from."""

    def __init__(
        self,
        preset: Preset,
        sequences: Sequences,
        loop: LoopConfig,
        codebook_KD: Tensor,
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        """`start`: weights to go on from instead of fresh ones."""
        self.model = WorldModel(preset.world_model)
        if start is None:
            self.model.init_weights()
            init_from_codebook(self.model, codebook_KD)
        else:
            checkpoints.load_strict(self.model, start, "start")
        self.sequences, self.layout = sequences, sequences.layout
        self.trainer = Trainer(self.model, loop)

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        with torch.autocast("cpu", torch.bfloat16):
            losses = code_losses(self.model, self.layout, self.sequences(step))
        return losses[:, 1:].mean(), {}

    def run(self, validation: Sequences, runs: int = 32) -> None:
        picked = np.linspace(0, len(validation.starts) - 1, runs).astype(int)
        ids_BS = validation.at(validation.starts[picked])

        def validate() -> dict[str, float]:
            with torch.autocast("cpu", torch.bfloat16):
                parts = [code_losses(self.model, self.layout, x) for x in ids_BS.split(4)]
            per_frame = torch.cat(parts).mean((0, 2))
            return {f"nats_frame{t + 1}": v.item() for t, v in enumerate(per_frame)}

        self.trainer.run(self.loss, validate=validate)
