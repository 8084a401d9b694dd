"""Stage 3: the three-frame decoder from the inflated image decoder (eq. 8: all three slots).

The tokenizer is frozen: its ids are the input, its codebook does not move. First version: J_rec
without the 3D discriminator.

Legend: B batch, T = 3 frames, N codes of a frame, C channels, H height, W width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sim_stream.config import VideoDecoderConfig
from sim_stream.models.layers import channels_last
from sim_stream.models.video_decoder import inflate
from sim_stream.models.vq_model import VQModel
from train.data import Split
from train.loop import LoopConfig, Trainer
from train.losses import psnr_db, reconstruction_loss

FRAMES = 3


class Clips:
    """Ids (B T N) and pixels (B T C H W) of three consecutive frames, from (seed, step, rank)."""

    def __init__(self, split: Split, batch: int, seed: int, rank: int = 0) -> None:
        self.split, self.batch, self.seed, self.rank = split, batch, seed, rank
        self.ids = np.load(split.folder / "ids.npy").astype(np.int64)
        self.starts = split.windows(FRAMES)

    def at(self, starts: np.ndarray) -> tuple[Tensor, Tensor]:
        rows = starts[:, None] + np.arange(FRAMES)
        return torch.from_numpy(self.ids[rows]), self.split.pixels(rows)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, step, self.rank))
        return self.at(rng.choice(self.starts, self.batch))


class VideoDecoderStage:
    """Trains everything of the video decoder but its codebook."""

    def __init__(
        self, vq: VQModel, config: VideoDecoderConfig, clips: Clips, loop: LoopConfig
    ) -> None:
        self.model = inflate(vq, config)
        self.model.quantize.requires_grad_(False)
        channels_last(self.model)
        self.clips = clips
        self.trainer = Trainer(self.model, loop)

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        ids_BTN, x_BTCHW = self.clips(step)
        x = x_BTCHW.flatten(0, 1)
        with torch.autocast("cpu", torch.bfloat16):
            y = self.model(ids_BTN).flatten(0, 1).float()
        return reconstruction_loss(y, x), {"psnr": psnr_db(y.detach(), x).mean().item()}

    def run(self, validation: Clips, clips: int = 24) -> None:
        picked = np.linspace(0, len(validation.starts) - 1, clips).astype(int)
        ids, x = validation.at(validation.starts[picked])

        def validate() -> dict[str, float]:
            y = torch.cat([self.model(part) for part in ids.split(2)])
            return {f"psnr_slot{t}": psnr_db(y[:, t], x[:, t]).mean().item() for t in range(FRAMES)}

        self.trainer.run(self.loss, validate=validate)
