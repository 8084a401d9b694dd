"""Stage 1: the VQModel, tokenizer and image decoder together, on single frames (eq. 1-4).

Three phases of one run: a short plain auto-encoder (no quantisation) finds good latents, k-means on
them places the codebook, then eq. 4 trains all of it; codes that no frame uses are re-seeded from
the batch. Without phase one most codes of a small model stay dead.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sim_stream.config import VQConfig
from sim_stream.models.vq_model import VQModel
from train.data import Split
from train.loop import LoopConfig, Trainer, average
from train.losses import psnr_db, reconstruction_loss

PLAIN_SHARE = 0.15  # of the budget: auto-encoder without quantisation
RESEED_EVERY, RESEED_UNTIL = 50, 0.7


class FrameBatches:
    """Random frames of a split, drawn from (seed, step, rank)."""

    def __init__(self, split: Split, batch: int, seed: int, rank: int = 0) -> None:
        self.split, self.batch, self.seed, self.rank = split, batch, seed, rank

    def __call__(self, step: int) -> Tensor:
        return self.draw(np.random.default_rng((self.seed, step, self.rank)))

    def common(self, step: int) -> Tensor:
        """A batch that is the same on every rank."""
        return self.draw(np.random.default_rng((self.seed, step, 1 << 20)))

    def draw(self, rng: np.random.Generator) -> Tensor:
        rows = np.sort(rng.integers(0, len(self.split.frames), self.batch))
        x = self.split.pixels(rows)
        if rng.random() < 0.5:
            x = x.flip(-1)
        return x.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def kmeans(points_ND: Tensor, k: int, iterations: int = 12) -> Tensor:
    """Lloyd's algorithm from random points; empty clusters take random points."""
    generator = torch.Generator().manual_seed(0)
    centres = points_ND[torch.randperm(len(points_ND), generator=generator)[:k]].clone()
    for _ in range(iterations):
        nearest = (centres.square().sum(1) - 2 * points_ND @ centres.T).argmin(1)
        counts = torch.bincount(nearest, minlength=k)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points_ND)
        centres = sums / counts.clamp(min=1)[:, None]
        empty = (counts == 0).nonzero()[:, 0]
        spare = torch.randint(len(points_ND), (len(empty),), generator=generator)
        centres[empty] = points_ND[spare]
    return centres


class TokenizerStage:
    """Holds the phase of the run and the codes' use counts."""

    def __init__(self, config: VQConfig, batches: FrameBatches, loop: LoopConfig) -> None:
        model = VQModel(config).to(memory_format=torch.channels_last)
        self.model: VQModel = model  # type: ignore[assignment]
        self.batches = batches
        self.trainer = Trainer(self.model, loop)
        self.use = torch.zeros(config.num_vq_embeddings)
        self.quantised = False

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        x = self.batches(step)
        if not self.quantised and self.trainer.progress() >= PLAIN_SHARE:
            self.place_codebook(step)
        with torch.autocast("cpu", torch.bfloat16):
            y, codebook_loss = self.quantised_pass(x) if self.quantised else self.plain_pass(x)
        rec = reconstruction_loss(y.float(), x)
        figures = {"psnr": psnr_db(y.detach().float(), x).mean().item()}
        if self.quantised:
            figures["codes"] = float((self.use > 0).sum())
        return rec + codebook_loss, figures

    def plain_pass(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.model.latents(x)
        # Keeps latents at a scale where the commitment term later means something.
        return self.model.decoder(self.model.post_quant_conv(z)), 1e-3 * z.float().square().mean()

    def quantised_pass(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out = self.model(x)
        counts = torch.bincount(out.ids_BN.flatten(), minlength=len(self.use)).float()
        average([counts])
        self.use.mul_(0.99).add_(counts)
        return out.x_BCHW, out.codebook_loss

    @torch.no_grad()
    def sample_latents(self, step: int, batches: int) -> Tensor:
        latents = [self.model.latents(self.batches.common(step + i)) for i in range(batches)]
        return torch.cat([z.permute(0, 2, 3, 1).flatten(0, 2) for z in latents]).float()

    def place_codebook(self, step: int) -> None:
        codebook = self.model.quantize.embedding.weight
        with torch.no_grad():
            codebook.copy_(kmeans(self.sample_latents(step, 24), len(codebook)))
        self.trainer.ema.shadow["quantize.embedding.weight"].copy_(codebook.detach())
        self.use.fill_(1.0)
        self.quantised = True

    def after_step(self, step: int) -> None:
        if not self.quantised or step % RESEED_EVERY or self.trainer.progress() > RESEED_UNTIL:
            return
        dead = (self.use < 0.05).nonzero()[:, 0]
        if len(dead):
            pool = self.sample_latents(step, 2)
            generator = torch.Generator().manual_seed(step)
            picked = pool[torch.randint(len(pool), (len(dead),), generator=generator)]
            with torch.no_grad():
                self.model.quantize.embedding.weight[dead] = picked
            self.use[dead] = 1.0

    def resume(self) -> None:
        if self.trainer.resume():
            self.quantised = self.trainer.progress() >= PLAIN_SHARE
            self.use.fill_(1.0)

    def run(self, validation: Split, frames: int = 64) -> None:
        rows = np.linspace(0, len(validation.frames) - 1, frames).astype(int)
        x = validation.pixels(rows)

        def validate() -> dict[str, float]:
            if not self.quantised:
                return {}
            ids = torch.cat([self.model.encode(part) for part in x.split(8)])
            y = torch.cat([self.model.decode(part) for part in ids.split(8)])
            return {
                "psnr": psnr_db(y, x).mean().item(),
                "l1": F.l1_loss(y, x).item(),
                "codes": float(len(ids.unique())),
            }

        self.trainer.run(self.loss, self.after_step, validate)
