"""Distances of two sets of feature vectors, in float64. Knows no networks.

Frechet distance of the Gaussians with the sets' means and covariances (FID, FVD), and the biased
squared MMD with a Gaussian kernel (CMMD).

Legend: N vectors, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sim_stream.errors import InvalidInput

CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0  # Jayasumana et al.'s


@dataclass
class Moments:
    """Running sums of feature vectors; merging two is adding their sums."""

    count: int = 0
    total_D: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    outer_DD: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))

    def add(self, x_ND: Tensor) -> None:
        x = x_ND.double().cpu()
        if not self.count:
            self.total_D = torch.zeros(x.shape[1], dtype=torch.float64)
            self.outer_DD = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
        self.count += len(x)
        self.total_D += x.sum(0)
        self.outer_DD += x.T @ x

    @property
    def dimensions(self) -> int:
        return len(self.total_D)

    def gaussian(self) -> tuple[Tensor, Tensor]:
        """(mean, unbiased covariance)."""
        if self.count < 2:
            raise InvalidInput("samples", self.count, "2 or more")
        mean = self.total_D / self.count
        covariance = (self.outer_DD - self.count * torch.outer(mean, mean)) / (self.count - 1)
        if not covariance.isfinite().all():
            raise InvalidInput("features", "values that are not finite", "finite features")
        return mean, covariance


def frechet(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) of two Gaussians.

    The trace of the root is the sum of the roots of the eigenvalues of C_a^(1/2) C_b C_a^(1/2),
    which is symmetric: no general matrix root is needed.
    """
    (m_a, c_a), (m_b, c_b) = a, b
    values, vectors = torch.linalg.eigh(c_a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    inner = torch.linalg.eigvalsh(root @ c_b @ root)
    trace = c_a.trace() + c_b.trace() - 2.0 * inner.clamp(min=0).sqrt().sum()
    return float((m_a - m_b).square().sum() + trace)


def gaussian_mmd(x_ND: Tensor, y_ND: Tensor, sigma: float = CMMD_SIGMA) -> float:
    """Biased squared maximum mean discrepancy with exp(-|x - y|^2 / (2 sigma^2))."""
    x, y = x_ND.double(), y_ND.double()

    def mean_kernel(a: Tensor, b: Tensor) -> Tensor:
        squared = (a.square().sum(1)[:, None] + b.square().sum(1) - 2.0 * a @ b.T).clamp(min=0)
        return torch.exp(-squared / (2.0 * sigma**2)).mean()

    return float(mean_kernel(x, x) + mean_kernel(y, y) - 2.0 * mean_kernel(x, y))


def cmmd(x_ND: Tensor, y_ND: Tensor) -> float:
    """CMMD of normalised CLIP embeddings."""
    return CMMD_SCALE * gaussian_mmd(x_ND, y_ND)
