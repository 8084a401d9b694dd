"""Diagonal decoding: a row starts once the row above it has k codes (facts/decoding_and_gpu.md).

Training-free and approximate: a code sees fewer codes of the rows above than in raster order. A
row's first code follows the end of the row above, which is not known yet: a stand-in takes its
place for that one draw, is seen by nothing else, and is overwritten by the true code as soon as
that is drawn. With k = row length nothing is left out and the codes are raster's.

Legend: P leading ids, N codes of a frame, E ids that enter with a pass, T cache slots.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sim_stream.decoding.kind import CountOption, StrategyKind
from sim_stream.decoding.strategy import Decoded, Draw, Draws, Positions, Task

if TYPE_CHECKING:
    from torch import Tensor


class Diagonal:
    """`rows_apart`: k, codes that a row is ahead of the next one, 1 to a row's length."""

    def __init__(self, row_length: int, rows_apart: int) -> None:
        self.row_length, self.rows_apart = row_length, rows_apart

    def decode(self, task: Task) -> Draws:
        """Stand-ins come from `guess_N`. Knows no deadline."""
        import torch  # not above: see kind

        cache, noise_NV, total = task.cache, task.noise_NV, len(task.noise_NV)
        base = cache.length + task.lead_1P.shape[1]  # slot of code 0
        ids_N, device = task.guess_N.clone(), task.guess_N.device
        ids_N[:1] = yield Draw(cache, task.lead_1P, noise_NV[:1], task.sampling)
        written_N = torch.zeros(total, dtype=torch.bool, device=device)
        accepted = [1]
        for entering, stand_ins, drawn in self._plan(total // self.row_length):
            entering_E = torch.tensor(entering, device=device)
            written_N[entering_E] = True
            written_N[torch.tensor(stand_ins, dtype=torch.int64, device=device)] = False
            positions = _positions(entering_E, written_N, base)
            drawn_R = torch.tensor(drawn, device=device)
            ids_N[drawn_R] = yield Draw(
                cache, ids_N[None, entering_E], noise_NV[drawn_R], task.sampling, positions
            )
            accepted.append(len(drawn))
        cache.advance(total - 1)
        exact = self.rows_apart == self.row_length
        return Decoded(ids_N, accepted=tuple(accepted), approximated=not exact)

    def _plan(self, rows: int) -> Iterator[tuple[list[int], list[int], list[int]]]:
        """Per pass after the first: codes that enter, those of them that are stand-ins, and codes
        that are drawn, by the last ones that enter.

        Code (row, column) is drawn by pass row * k + column, after the code before it.
        """
        k, length = self.rows_apart, self.row_length
        for number in range(1, (rows - 1) * k + length):
            ends, stand_ins, before, drawn = [], [], [], []
            for row in range(rows):
                column = number - row * k
                code = row * length + column
                if column == length and row < rows - 1 and k < length:
                    ends.append(code - 1)  # the true end of a row, drawn by the last pass
                if 0 <= column < length and code > 0:
                    before.append(code - 1)
                    drawn.append(code)
                    if column == 0 and k < length:
                        stand_ins.append(code - 1)
            yield ends + before, stand_ins, drawn


def _positions(entering_E: Tensor, written_N: Tensor, base: int) -> Positions:
    """A code sees all that stands before the frame, what was truly written before it, itself."""
    import torch

    codes_N = torch.arange(len(written_N), device=written_N.device)
    seen_EN = written_N & (codes_N <= entering_E[:, None])
    seen_EN |= codes_N == entering_E[:, None]
    seen_ET = torch.nn.functional.pad(seen_EN[:, :-1], (base, 0), value=True)
    return Positions(entering_E + base, seen_ET)


DIAGONAL = StrategyKind(
    name="diagonal",
    about="rows side by side",
    option=CountOption(name="k", default=1, most=lambda grid: grid[1]),
    exact=False,
    make=lambda how, grid: Diagonal(grid[1], how.k),
)
