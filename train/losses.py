"""Reconstruction losses on pixels in [-1, 1].

J_rec of OpenViCA (eq. 2-3, weights of Sec. IV) without its perceptual network, whose weights a user
must bring; an edge term stands in its place so that lane markings and outlines stay sharp.

Legend: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class RecWeights(NamedTuple):
    """Paper: L1 0.2, L2 2.0. `edge` is ours."""

    l1: float = 0.2
    l2: float = 2.0
    edge: float = 0.5


PAPER = RecWeights()


def edges(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Horizontal and vertical first differences."""
    return x_BCHW.diff(dim=-1), x_BCHW.diff(dim=-2)


def edge_loss(y_BCHW: Tensor, x_BCHW: Tensor) -> Tensor:
    """Mean absolute difference of first differences, both directions."""
    pairs = zip(edges(y_BCHW), edges(x_BCHW), strict=True)
    return torch.stack([(a - b).abs().mean() for a, b in pairs]).mean()


def reconstruction_loss(y_BCHW: Tensor, x_BCHW: Tensor, weights: RecWeights = PAPER) -> Tensor:
    """Weighted L1 + L2 + edge loss of a reconstruction `y` of `x`."""
    difference = y_BCHW - x_BCHW
    loss = weights.l1 * difference.abs().mean() + weights.l2 * difference.square().mean()
    return loss + weights.edge * edge_loss(y_BCHW, x_BCHW)


def psnr_db(y_BCHW: Tensor, x_BCHW: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, (B,); both are clamped to [-1, 1]."""
    mse = (y_BCHW.clamp(-1, 1) - x_BCHW.clamp(-1, 1)).square().mean((1, 2, 3))
    return 10.0 * torch.log10(4.0 / mse)
