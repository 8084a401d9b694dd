"""Stage 3: the three-frame decoder from the inflated image decoder (eq. 8: all three slots).

The tokenizer is frozen: its ids are the input, its codebook does not move. J_rec alone first; from
a share of the budget on a patch discriminator joins, without which grass, clouds and cars stay
smooth. First version: the discriminator sees single frames.

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
from train.discriminator import (
    PatchDiscriminator,
    balanced_weight,
    discriminator_loss,
    generator_loss,
)
from train.loop import LoopConfig, Trainer, average
from train.losses import psnr_db, reconstruction_loss

FRAMES = 3
GAN_FROM = 0.35  # share of the budget
GAN_SHARE = 0.3  # of the reconstruction's gradient at the last layer


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
        self.discriminator = PatchDiscriminator()
        self.d_optimizer = torch.optim.AdamW(self.discriminator.parameters(), 2e-4, (0.5, 0.9))
        self.clips = clips
        companions = {"discriminator": self.discriminator, "d_optimizer": self.d_optimizer}
        self.trainer = Trainer(self.model, loop, companions)

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        ids_BTN, x_BTCHW = self.clips(step)
        x = x_BTCHW.flatten(0, 1)
        with torch.autocast("cpu", torch.bfloat16):
            y = self.model(ids_BTN).flatten(0, 1)
        y = y.float()
        loss = reconstruction_loss(y, x)
        figures = {"psnr": psnr_db(y.detach(), x).mean().item()}
        if self.trainer.progress() >= GAN_FROM:
            loss = loss + self.adversarial(x, y, loss, figures)
        return loss, figures

    def adversarial(self, x: Tensor, y: Tensor, rec: Tensor, figures: dict[str, float]) -> Tensor:
        """One step of the discriminator, then the generator's balanced loss."""
        with torch.autocast("cpu", torch.bfloat16):
            d_loss = discriminator_loss(self.discriminator(x), self.discriminator(y.detach()))
        self.d_optimizer.zero_grad(set_to_none=True)
        d_loss.backward()
        average([p.grad for p in self.discriminator.parameters() if p.grad is not None])
        self.d_optimizer.step()
        self.discriminator.requires_grad_(False)
        with torch.autocast("cpu", torch.bfloat16):
            g_loss = generator_loss(self.discriminator(y))
        self.discriminator.requires_grad_(True)
        weight = balanced_weight(rec, g_loss, self.model.decoder.conv_out.weight, GAN_SHARE)
        figures |= {"d_loss": d_loss.item(), "g_loss": g_loss.item(), "g_weight": weight.item()}
        return weight * g_loss

    def run(self, validation: Clips, clips: int = 24) -> None:
        picked = np.linspace(0, len(validation.starts) - 1, clips).astype(int)
        ids, x = validation.at(validation.starts[picked])

        def validate() -> dict[str, float]:
            y = torch.cat([self.model(part) for part in ids.split(2)])
            return {f"psnr_slot{t}": psnr_db(y[:, t], x[:, t]).mean().item() for t in range(FRAMES)}

        self.trainer.run(self.loss, validate=validate)
