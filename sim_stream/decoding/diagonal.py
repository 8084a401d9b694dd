"""Diagonal decoding: a row starts once the row above it has k codes (facts/decoding_and_gpu.md).

Training-free and approximate: a code sees fewer codes of the rows above than in raster order. A
row's first code follows the end of the row above, which is not known yet: a stand-in takes its
place for that one draw, is seen by nothing else, and is overwritten by the true code as soon as
that is drawn. With k = row length nothing is left out and the codes are raster's.

Legend: P leading ids, N codes of a frame, V codes, E ids that enter with a pass, T cache slots.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sim_stream.decoding.passes import FullPass
from sim_stream.decoding.sampling import sample
from sim_stream.decoding.strategy import Decoded, Task
from sim_stream.models.kv_cache import ScatteredWrites


class Diagonal:
    """`rows_apart`: k, codes that a row is ahead of the next one, 1 to a row's length."""

    def __init__(self, model: FullPass, row_length: int, rows_apart: int) -> None:
        self.model, self.row_length, self.rows_apart = model, row_length, rows_apart

    @torch.inference_mode()
    def decode(self, task: Task) -> Decoded:
        """Stand-ins come from `guess_N`. Knows no deadline."""
        noise_NV, sampling = task.noise_NV, task.sampling
        cache, total = self.model.cache, len(noise_NV)
        base = cache.length + task.lead_1P.shape[1]  # slot of code 0
        ids_N, device = task.guess_N.clone(), task.guess_N.device
        ids_N[0] = self.model.draw(task.lead_1P, noise_NV[:1], sampling)[0]
        written_N = torch.zeros(total, dtype=torch.bool, device=device)
        codes_N = torch.arange(total, device=device)
        accepted = [1]
        for entering, stand_ins, drawn in self._plan(total // self.row_length):
            entering_E = torch.tensor(entering, device=device)
            written_N[entering_E] = True
            written_N[torch.tensor(stand_ins, dtype=torch.int64, device=device)] = False
            # A code sees what was truly written before it and itself.
            seen_EN = written_N & (codes_N <= entering_E[:, None])
            seen_EN |= codes_N == entering_E[:, None]
            logits_EV = self._logits(ids_N, entering_E, seen_EN, base)
            rows = torch.arange(len(entering), device=device)[-len(drawn) :]
            drawn_E = torch.tensor(drawn, device=device)
            ids_N[drawn_E] = sample(logits_EV[rows], noise_NV[drawn_E], sampling)
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

    def _logits(self, ids_N: Tensor, entering_E: Tensor, seen_EN: Tensor, base: int) -> Tensor:
        model, cache = self.model.model, self.model.cache
        end = base + len(ids_N) - 1
        seen_ET = torch.nn.functional.pad(seen_EN[:, :-1], (base, 0), value=True)
        writes = ScatteredWrites(cache, entering_E + base, end)
        hidden_1ED = model.forward_at(ids_N[None, entering_E], seen_ET, writes)
        return model.vision_logits(hidden_1ED[0], self.model.num_codes)
