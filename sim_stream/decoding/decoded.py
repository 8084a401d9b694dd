"""What a strategy gives: a frame's codes and how they came about.

Legend: N codes of a frame.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Decoded:
    """`accepted`: codes that each pass added; `approximated`: other codes than raster's may be in
    it."""

    ids_N: Tensor
    accepted: tuple[int, ...]
    approximated: bool = False

    @property
    def passes(self) -> int:
        return len(self.accepted)
