"""Losses on pixels in [-1, 1] and on latents: eq. 2, 3 and 4, each a mean over its elements.

Networks that a loss needs come from outside: the perceptual loss takes any feature extractor.

Legend: B batch, C channels, H height, W width, D latent channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from train.config import LossConfig
from train.measures import MAX_PSNR_DB

Features = Callable[[Tensor], list[Tensor]]


def edges(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Horizontal and vertical first differences."""
    return x_BCHW.diff(dim=-1), x_BCHW.diff(dim=-2)


def edge_loss(y_BCHW: Tensor, x_BCHW: Tensor) -> Tensor:
    """Mean absolute difference of first differences, both directions (ours)."""
    pairs = zip(edges(y_BCHW), edges(x_BCHW), strict=True)
    return torch.stack([(a - b).abs().mean() for a, b in pairs]).mean()


def texture_loss(y_BCHW: Tensor, x_BCHW: Tensor) -> Tensor:
    """Mean absolute difference of how rough a place is, whatever its pattern (ours).

    Roughness: mean absolute first differences of frames averaged by 4, in blocks of 16 pixels, a
    code's size at 16x16 codes of 256 pixels. Of grain that a code cannot say, losses on pixels want
    none at all.
    """
    pairs = zip(edges(F.avg_pool2d(y_BCHW, 4)), edges(F.avg_pool2d(x_BCHW, 4)), strict=True)
    # ceil_mode: the last block is one difference short.
    rough = [[F.avg_pool2d(d.abs(), 4, ceil_mode=True) for d in pair] for pair in pairs]
    return torch.stack([(a - b).abs().mean() for a, b in rough]).mean()


def perceptual_loss(features: Features, y_BCHW: Tensor, x_BCHW: Tensor) -> Tensor:
    """Eq. 3: squared differences of a loss network's activations, summed over its layers.

    Each layer's term is a mean over its elements, as in Johnson et al.
    """
    with torch.no_grad():
        wanted = features(x_BCHW)
    pairs = zip(features(y_BCHW), wanted, strict=True)
    return torch.stack([F.mse_loss(a.float(), b.float()) for a, b in pairs]).sum()


def reconstruction_terms(
    y_BCHW: Tensor, x_BCHW: Tensor, config: LossConfig, features: Features | None
) -> dict[str, Tensor]:
    """The weighted terms of eq. 2; a term of weight 0 is not computed."""
    terms = {}
    if config.l1:
        terms["l1"] = config.l1 * F.l1_loss(y_BCHW, x_BCHW)
    if config.l2:
        terms["l2"] = config.l2 * F.mse_loss(y_BCHW, x_BCHW)
    if config.edge:
        terms["edge"] = config.edge * edge_loss(y_BCHW, x_BCHW)
    if config.texture:
        terms["texture"] = config.texture * texture_loss(y_BCHW, x_BCHW)
    if config.perceptual:
        assert features is not None, "a perceptual loss needs its network"
        terms["perceptual"] = config.perceptual * perceptual_loss(features, y_BCHW, x_BCHW)
    return terms


def codebook_loss(q_BDGG: Tensor, z_BDGG: Tensor, beta: float) -> Tensor:
    """Eq. 4: |sg(z) - q|^2 + beta |z - sg(q)|^2, q the code vectors nearest to the latents z."""
    embedding = F.mse_loss(q_BDGG, z_BDGG.detach())
    commitment = F.mse_loss(z_BDGG, q_BDGG.detach())
    return embedding + beta * commitment


def distillation_loss(projected_BND: Tensor, teacher_BND: Tensor, eps: float = 1e-8) -> Tensor:
    """Eq. 5: one minus the cosine between projected code vectors and the teacher's tokens."""
    dot = (projected_BND * teacher_BND).sum(-1)
    norms = projected_BND.norm(dim=-1) * teacher_BND.norm(dim=-1)
    return (1.0 - dot / norms.clamp(min=eps)).mean()


def psnr_db(y_BCHW: Tensor, x_BCHW: Tensor) -> Tensor:
    """PSNR of each image in dB, (B,), at most MAX_PSNR_DB; both are clamped to [-1, 1]."""
    mse = (y_BCHW.clamp(-1, 1) - x_BCHW.clamp(-1, 1)).square().mean((1, 2, 3))
    return (10.0 * torch.log10(4.0 / mse)).clamp(max=MAX_PSNR_DB)
