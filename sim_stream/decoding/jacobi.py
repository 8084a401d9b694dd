"""Gumbel-coupled Jacobi decoding: raster's very codes in fewer passes (facts/decoding_and_gpu.md).

The noise of every draw is fixed, so a code is a function of the codes before it. A window of
guesses goes through the model in one pass; what is drawn after right guesses is right, up to and
including the first draw that differs from its guess. All draws are the next pass's guesses.

Legend: N codes of a frame, W codes of a window, S ids of a pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim_stream.decoding.kind import CountOption, StrategyKind
from sim_stream.decoding.strategy import Decoded, Draw, Draws, Task

if TYPE_CHECKING:
    from torch import Tensor


def count_accepted(drawn_W: Tensor, guesses_W: Tensor) -> int:
    """Draws that follow right codes only; `guesses_W` are those of all codes but the last."""
    return int((drawn_W[:-1] == guesses_W).long().cumprod(0).sum()) + 1


class Jacobi:
    """`window`: codes drawn by one pass, 1 to a whole frame; 1 is raster decoding."""

    def __init__(self, window: int) -> None:
        self.window = window

    def decode(self, task: Task) -> Draws:
        """`guess_N` changes the number of passes and nothing else.

        `expired` is asked after every pass; once it says so the codes found and the guesses for the
        rest are the frame, which is then an approximation.
        """
        import torch  # not above: see kind

        cache, total = task.cache, len(task.noise_NV)
        ids_N, feed_1S, found = task.guess_N.clone(), task.lead_1P, 0
        accepted: list[int] = []
        while found < total:
            window = slice(found, min(found + self.window, total))
            guesses_W = ids_N[found : window.stop - 1].clone()
            first_guess = cache.length + feed_1S.shape[1]
            fed_1S = torch.cat([feed_1S, guesses_W[None]], 1)
            drawn_W = yield Draw(cache, fed_1S, task.noise_NV[window], task.sampling)
            ids_N[window] = drawn_W
            accepted.append(count_accepted(drawn_W, guesses_W))
            found += accepted[-1]
            # The last code found was drawn, not fed.
            cache.roll_back(first_guess + accepted[-1] - 1)
            feed_1S = ids_N[None, found - 1 : found]
            if found < total and task.expired is not None and task.expired():
                return Decoded(ids_N, accepted=tuple(accepted), approximated=True)
        return Decoded(ids_N, accepted=tuple(accepted))


JACOBI = StrategyKind(
    name="jacobi",
    about="guesses that a pass checks",
    option=CountOption(name="window", default=16, most=lambda grid: grid[0] * grid[1]),
    exact=True,
    takes_deadline=True,
    drawn=lambda how: how.window,
    make=lambda how, grid: Jacobi(how.window),
)
