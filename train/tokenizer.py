"""Stage 1: the VQModel, tokenizer and image decoder together, on single frames (eq. 1-7).

The `pocket` recipe, which starts from nothing, has three phases: a short plain auto-encoder (no
quantisation) finds good latents, k-means on them places the codebook, then eq. 4 trains all of it;
codes that no frame uses are re-seeded from the batch. Without phase one most codes of a small model
stay dead. The paper's recipe starts from trained weights and has the last phase only. The image
decoder can be trained alone, on frames of a new kind whose ids are to stay as they are.

Legend: B batch, C channels, H height, W width, D latent channels, G latent grid, N codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sim_stream.config import VQConfig, to_dict
from sim_stream.models.layers import channels_last
from sim_stream.models.vq_model import VQModel, from_pixels
from train.config import TokenizerTraining
from train.data.split import Split
from train.discriminator import Adversary
from train.losses import (
    Features,
    codebook_loss,
    distillation_loss,
    psnr_db,
    reconstruction_terms,
)
from train.parallel import WHOLE, Share, sum_over_ranks
from train.teacher import Teacher

RESEED_UNTIL = 0.7  # of the budget
KMEANS_BATCHES, RESEED_BATCHES = 24, 2


@dataclass(frozen=True)
class FrameBatches:
    """Random frames of a split, uint8 (B H W C); the batch follows from (seed, step) alone."""

    split: Split
    batch: int
    seed: int
    mirror: bool = True

    def __call__(self, step: int, share: Share = WHOLE) -> Tensor:
        rng = np.random.default_rng((self.seed, step))
        rows = rng.integers(0, len(self.split), self.batch)
        flips = rng.random(self.batch) < (0.5 if self.mirror else 0.0)
        mine = share.rows(self.batch)
        images = self.split.images(rows[mine])
        images[flips[mine]] = images[flips[mine], :, ::-1]
        return torch.from_numpy(images)


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
        centres[empty] = points_ND[spare.to(points_ND.device)]
    return centres


class Output(NamedTuple):
    x_BCHW: Tensor
    codebook: Tensor  # eq. 4, or what keeps latents in scale before there is a codebook
    ids_BN: Tensor | None
    projected_BND: Tensor | None  # FC(384) of the code vectors, for eq. 5


class TokenizerNet(nn.Module):
    """The VQModel and the adapter FC(384), as one module to call and to wrap."""

    def __init__(
        self, vq: VQModel, teacher_width: int | None, *, decoder_only: bool = False
    ) -> None:
        super().__init__()
        if decoder_only:
            for part in (vq.encoder, vq.quant_conv, vq.quantize):
                part.requires_grad_(False)
        self.vq = vq
        d = vq.config.latent_channels
        self.adapter = nn.Linear(d, teacher_width) if teacher_width else None

    def forward(self, x_BCHW: Tensor, beta: float, quantised: bool = True) -> Output:
        vq = self.vq
        z = vq.latents(x_BCHW).float()
        if not quantised:
            # Keeps latents at a scale where the commitment term later means something.
            return Output(vq.decoder(vq.post_quant_conv(z)), 1e-3 * z.square().mean(), None, None)
        ids = vq.ids_of(z.detach())
        q = vq.lookup(ids)
        loss = codebook_loss(q, z, beta)
        # Gradients of all other losses are copied from q to z (paper, below eq. 4).
        through = z + (q - z).detach()
        projected = None
        if self.adapter is not None:
            projected = self.adapter(through.flatten(2).transpose(1, 2)).float()
        return Output(vq.decoder(vq.post_quant_conv(through)), loss, ids, projected)


class TokenizerStage:
    """Eq. 1 with every term switchable; holds the phase of the run and the codes' use counts."""

    def __init__(
        self,
        vq: VQModel,
        config: TokenizerTraining,
        batches: FrameBatches | None,
        *,
        features: Features | None = None,
        teacher: Teacher | None = None,
        validation: Tensor | None = None,
    ) -> None:
        """`validation`: held-out frames (n 3 H W); `batches` None serves a dry run."""
        self.config, self.losses, self.batches = config, config.losses, batches
        width = teacher.width if teacher else None
        net = TokenizerNet(vq, width, decoder_only=config.decoder_only)
        channels_last(net)
        self.net = net
        self.model: nn.Module = self.net
        self.features, self.teacher, self.validation = features, teacher, validation
        self.game = None
        if self.losses.gan:
            self.game = Adversary(config.discriminator, self.losses.gan, temporal=False)
        self.players = self.game.players if self.game else {}
        self.unused = config.plain_share > 0  # the codebook, as long as nothing is quantised
        self.replaced: set[str] = set()
        self.use = torch.zeros(vq.config.num_vq_embeddings)
        self.quantised, self.progress = config.plain_share == 0, 0.0

    @property
    def vq(self) -> VQModel:
        return self.net.vq

    def blocks(self) -> list[nn.Module]:
        return [*self.vq.encoder.down_blocks, *self.vq.decoder.up_blocks]

    def identity(self) -> dict[str, Any]:
        vq: VQConfig = self.vq.config
        adapter = self.net.adapter.out_features if self.net.adapter else None
        identity = {"stage": "tokenizer", "vq": _plain(to_dict(vq)), "adapter": adapter}
        return {**identity, "decoder_only": True} if self.config.decoder_only else identity

    @property
    def device(self) -> torch.device:
        return self.vq.quantize.embedding.weight.device

    def batch(self, step: int, share: Share) -> tuple[Tensor, ...]:
        assert self.batches is not None
        return (self.batches(step, share),)

    def before_step(self, step: int, progress: float) -> None:
        self.progress = progress
        if self.game:
            self.game.progress = progress
        if not self.quantised and progress >= self.config.plain_share:
            self.place_codebook(step)

    def loss(self, net: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Any]]:
        x = from_pixels(batch[0])  # channels last, as the frames are stored
        out: Output = net(x, self.losses.beta, self.quantised)
        y = out.x_BCHW.float()
        terms = reconstruction_terms(y, x, self.losses, self.features)
        rec = torch.stack([*terms.values()]).sum()
        terms["codebook"] = self.losses.codebook * out.codebook
        if out.projected_BND is not None and self.teacher is not None:
            distance = distillation_loss(out.projected_BND, self.teacher(x))
            terms["ssl"] = self.losses.ssl * distance
        figures: dict[str, Any] = {k: v.detach() for k, v in terms.items()}
        figures["psnr"] = psnr_db(y.detach(), x).mean()
        if self.game:
            last = self.vq.decoder.conv_out.weight
            term = self.game.generator_term(x, y, rec, last, figures)
            if term is not None:
                terms["gan"] = term
        if out.ids_BN is not None:
            self.count(out.ids_BN)
            figures["codes"] = (self.use > 0).sum()
        return torch.stack([*terms.values()]).sum(), figures

    def player_loss(self, name: str, net: nn.Module) -> Tensor | None:
        return self.game.loss(net) if self.game else None

    # -- codebook ------------------------------------------------------------------------------

    def count(self, ids_BN: Tensor) -> None:
        counts = torch.bincount(ids_BN.flatten(), minlength=len(self.use)).float()
        self.use.mul_(0.99).add_(sum_over_ranks(counts).cpu())

    @torch.no_grad()
    def sample_latents(self, step: int, batches: int) -> Tensor:
        """Latents (n D) of whole batches, the same on every rank."""
        assert self.batches is not None
        frames = (self.batches(step + i).to(self.device) for i in range(batches))
        latents = [self.vq.latents(from_pixels(part)) for part in frames]
        return torch.cat([z.permute(0, 2, 3, 1).flatten(0, 2) for z in latents]).float()

    @torch.no_grad()
    def place_codebook(self, step: int) -> None:
        codebook = self.vq.quantize.embedding.weight
        codebook.copy_(kmeans(self.sample_latents(step, KMEANS_BATCHES), len(codebook)))
        self.use.fill_(1.0)
        self.quantised = True
        self.replaced.add("vq.quantize.embedding.weight")

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        every = self.config.reseed_every
        if not every or not self.quantised or step % every or self.progress > RESEED_UNTIL:
            return
        dead = (self.use < 0.05).nonzero()[:, 0]
        if len(dead):
            pool = self.sample_latents(step, RESEED_BATCHES)
            generator = torch.Generator().manual_seed(step)
            picked = torch.randint(len(pool), (len(dead),), generator=generator)
            rows = dead.to(self.device)
            self.vq.quantize.embedding.weight[rows] = pool[picked.to(self.device)]
            self.use[dead] = 1.0

    def state_dict(self) -> dict[str, Any]:
        return {"use": self.use, "quantised": self.quantised}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.use, self.quantised = state["use"], state["quantised"]

    # -- validation ----------------------------------------------------------------------------

    def reconstructions(self, count: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(ids, reconstructions, frames) of held-out frames, on the CPU."""
        assert self.validation is not None
        x = self.validation[:count]
        ids = torch.cat([self.vq.encode(part.to(self.device)) for part in x.split(8)])
        y = torch.cat([self.vq.decode(part).float().cpu() for part in ids.split(8)])
        return ids, y, x

    def validate(self) -> dict[str, float]:
        if not self.quantised or self.validation is None:
            return {}
        ids, y, x = self.reconstructions()
        return {
            "psnr": psnr_db(y, x).mean().item(),
            "l1": F.l1_loss(y, x).item(),
            "codes": float(len(ids.unique())),
        }

    def pictures(self) -> dict[str, Tensor]:
        if not self.quantised or self.validation is None:
            return {}
        _, y, x = self.reconstructions(4)
        return {"frame_and_reconstruction": torch.cat([x, y], -1)}


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
