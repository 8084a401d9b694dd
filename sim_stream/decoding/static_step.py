"""One pass of the static decode loop: fixed shapes, fixed memory, nothing read by the host.

Every row of the KV pool has a state here, on the device: its ids, how far it is, when it is done.
A pass feeds each active row the window of ids from its front on, draws what follows them, accepts
draws up to the first that differs from its guess, and moves the front. This is jacobi decoding
(`jacobi.Jacobi` is the reference implementation); a window of one id is raster decoding.

A row's ids stand in *columns*: P that lead to the frame and are known, N codes, then W that nobody
wants, so that a window may reach beyond the end. Column c stands at position `base + c`.

Legend: R rows of the pool, B rows of a pass (the first ones), P leading ids, N codes, W ids of a
window, C columns, V codes of the vocabulary, T slots.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sim_stream.decoding.sampling import draw
from sim_stream.models.attention import Attend
from sim_stream.models.kv_cache import KVPool, RowWrites
from sim_stream.models.world_model import WorldModel


class StaticState:
    """Rows' columns, noise, positions and fronts. `front`: columns that are in the cache for good;
    a frame is done when it is `end`, the last code's column, which was drawn and not fed."""

    def __init__(self, pool: KVPool, lead: int, codes: int, vocabulary: int) -> None:
        rows, device = pool.rows, pool.device
        self.pool, self.lead, self.end = pool, lead, lead + codes - 1
        self.ids_RC = torch.zeros(rows, lead + 2 * codes, dtype=torch.int64, device=device)
        self.noise_RNV = torch.zeros(rows, codes, vocabulary, device=device)
        self.base_R = torch.zeros(rows, dtype=torch.int64, device=device)
        self.front_R = torch.zeros(rows, dtype=torch.int64, device=device)

    def put(self, row: int, base: int, lead_P: Tensor, guess_N: Tensor, noise_NV: Tensor) -> None:
        """A frame begins. The device gets all of it without anybody waiting."""
        self.ids_RC[row, : self.lead] = lead_P
        self.ids_RC[row, self.lead : self.end + 1] = guess_N
        self.noise_RNV[row] = noise_NV
        self.base_R[row].fill_(base)
        self.front_R[row].fill_(0)

    def codes(self, row: int) -> Tensor:
        """The codes (N,) of a row as they are now."""
        return self.ids_RC[row, self.lead : self.end + 1].clone()


def static_pass(
    model: WorldModel,
    state: StaticState,
    attend: Attend,
    active_B: Tensor,
    scale: Tensor,
    window: int,
    top_k: int,
) -> None:
    """Takes the active rows of the first B one pass further. `scale`: 1 / temperature, ()."""
    rows, pool = len(active_B), state.pool
    ids_BC, front_B = state.ids_RC[:rows], state.front_R[:rows]
    window_W = torch.arange(window, device=front_B.device)
    fed_BW = front_B[:, None] + window_W
    ids_BW = ids_BC.gather(1, fed_BW)

    last_slot = pool.slots - 1  # spare: what is written there, nobody reads
    slots_BW = (state.base_R[:rows, None] + fed_BW).clamp(max=last_slot)
    slots_BW = torch.where(active_B[:, None], slots_BW, last_slot)
    writes = RowWrites(pool.layers, slots_BW[:, None], attend)
    hidden_BWD = model.forward_at(ids_BW, writes, last_slot + 1)

    vocabulary = state.noise_RNV.shape[-1]
    code_BW = (fed_BW + 1 - state.lead).clamp(0, state.noise_RNV.shape[1] - 1)
    noise_BWV = state.noise_RNV[:rows].gather(1, code_BW[..., None].expand(-1, -1, vocabulary))
    drawn_BW = draw(model.vision_logits(hidden_BWD, vocabulary), noise_BWV, top_k, scale)

    next_BW = fed_BW + 1
    guess_BW = ids_BC.gather(1, next_BW)
    known_BW = next_BW < state.lead
    right_BW = known_BW | (drawn_BW == guess_BW)
    wanted_BW = active_B[:, None] & ~known_BW & (next_BW <= state.end)
    ids_BC.scatter_(1, next_BW, torch.where(wanted_BW, drawn_BW, guess_BW))
    accepted_B = 1 + right_BW[:, :-1].long().cumprod(1).sum(1)
    moved_B = (front_B + accepted_B).clamp(max=state.end)
    front_B.copy_(torch.where(active_B, moved_B, front_B))
