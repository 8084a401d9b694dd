"""What every decoding strategy takes and gives.

Legend: P leading ids, N codes of a frame, V codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from sim_stream.config import SamplingConfig


@dataclass(frozen=True)
class Task:
    """A frame to be decoded.

    `lead_1P`: what stands between the cache and the first code (pending ids, actions). `guess_N`:
    what the codes may be. `expired`: whether time is up, for jacobi alone; None: it never is.
    """

    lead_1P: Tensor
    noise_NV: Tensor
    sampling: SamplingConfig
    guess_N: Tensor
    expired: Callable[[], bool] | None = None


@dataclass(frozen=True)
class Decoded:
    """A frame's codes and how they came about.

    `accepted`: codes that each pass added. `approximated`: codes may be others than raster's.
    """

    ids_N: Tensor
    accepted: tuple[int, ...]
    approximated: bool = False

    @property
    def passes(self) -> int:
        return len(self.accepted)


class Strategy(Protocol):
    def decode(self, task: Task) -> Decoded:
        """The cache then holds what is certain, but for the last code, which was drawn, not fed."""
        ...
