"""A static key/value cache: allocated once, written at a position, rolled back, copied.

Rolling back costs nothing: only `length` moves, later writes overwrite. A `KVPool` holds the caches
of all sessions as rows of the same tensors, so that one pass can serve several of them. A cache has
one owner, a pool may be shared by threads. Knows nothing about frames or sampling.

Legend: L layers, R rows, H heads, S new positions, T capacity and spare slots, K head dim.
"""

from __future__ import annotations

import threading
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from sim_stream.config import WorldModelConfig
from sim_stream.errors import InvalidInput, Unavailable
from sim_stream.models.attention import Attend

SLOTS_MULTIPLE = 16
Layers = list[tuple[Tensor, Tensor]]  # keys and values of every layer


class KVCache:
    """Keys and values of every layer, (1 H T K) each; below `length` they are valid."""

    def __init__(
        self,
        config: WorldModelConfig,
        capacity: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._adopt(allocate(config, 1, capacity, device, dtype), capacity, row=0)

    @classmethod
    def over(cls, layers: Layers, capacity: int, row: int) -> KVCache:
        """A cache in memory that a pool owns; slots beyond `capacity` are spare."""
        cache = object.__new__(cls)
        cache._adopt(layers, capacity, row)
        return cache

    def _adopt(self, layers: Layers, capacity: int, row: int) -> None:
        self.layers, self.capacity, self.row, self.length = layers, capacity, row, 0
        self._mask_ST: Tensor | None = None  # of the latest pass of several ids

    @property
    def device(self) -> torch.device:
        return self.layers[0][0].device

    @property
    def dtype(self) -> torch.dtype:
        return self.layers[0][0].dtype

    def attend(self, layer: int, q_1HSK: Tensor, k_1HSK: Tensor, v_1HSK: Tensor) -> Tensor:
        """New keys and values go to `length`; a query sees all valid ones and the new up to itself.

        `length` itself moves in `advance`, once per pass, after the last layer.
        """
        start, new = self.length, k_1HSK.shape[2]
        keys_1HTK, values_1HTK = self.layers[layer]
        keys_1HTK.narrow(2, start, new).copy_(k_1HSK)
        values_1HTK.narrow(2, start, new).copy_(v_1HSK)
        mask = None
        if start and new > 1:
            if self._mask_ST is None or self._mask_ST.shape != (new, start + new):
                self._mask_ST = causal_mask(new, start + new, q_1HSK.device)
            mask = self._mask_ST
        return F.scaled_dot_product_attention(
            q_1HSK,
            keys_1HTK.narrow(2, 0, start + new).to(q_1HSK.dtype),
            values_1HTK.narrow(2, 0, start + new).to(q_1HSK.dtype),
            attn_mask=mask,
            is_causal=mask is None and new > 1,
        )

    def check_room(self, new: int) -> None:
        """Raises InvalidInput where a pass of `new` positions would not fit."""
        if self.length + new > self.capacity:
            raise InvalidInput(
                "positions", self.length + new, f"at most {self.capacity} (the cache's capacity)"
            )

    def advance(self, new: int) -> None:
        self.length += new

    def roll_back(self, length: int) -> None:
        """Forgets every position from `length` on. Raises InvalidInput."""
        if not 0 <= length <= self.length:
            raise InvalidInput("length", length, f"0..{self.length}")
        self.length = length

    def copy_from(self, other: KVCache, length: int | None = None) -> None:
        """Holds what the first `length` positions of another cache hold (default: all valid)."""
        length = other.length if length is None else length
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            for to, source in zip(mine, theirs, strict=True):
                to.narrow(2, 0, length).copy_(source.narrow(2, 0, length))
        self.length = length

    def held(self, slots: int) -> Tensor:
        """A copy of the first slots, (L 2 1 H slots K)."""
        return torch.stack(
            [torch.stack([part.narrow(2, 0, slots) for part in pair]) for pair in self.layers]
        )


class KVPool:
    """Caches of equal capacity as rows of the same tensors; `take` lends a row.

    `layers`: keys and values, (R H T K) each. T is `capacity` and at least `spare` slots, which
    passes may write and no query of worth ever sees; a multiple of 16, so that a mask of that many
    columns fits every kernel as it is.
    """

    def __init__(
        self,
        config: WorldModelConfig,
        capacity: int,
        rows: int,
        *,
        spare: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if rows < 1:
            raise InvalidInput("rows", rows, "1 or more")
        self.capacity = capacity
        slots = -(-(capacity + spare) // SLOTS_MULTIPLE) * SLOTS_MULTIPLE
        self.layers = allocate(config, rows, slots, device, dtype)
        self._lent: list[KVCache | None] = [None] * rows
        self._lock = threading.Lock()

    @property
    def slots(self) -> int:
        """T."""
        return self.layers[0][0].shape[2]

    @property
    def device(self) -> torch.device:
        return self.layers[0][0].device

    @property
    def rows(self) -> int:
        return len(self._lent)

    def take(self) -> KVCache:
        """The lowest free row, empty. Raises Unavailable."""
        with self._lock:
            if None not in self._lent:
                raise Unavailable(
                    f"all {self.rows} rows of the KV cache are taken; close a session"
                )
            row = self._lent.index(None)
            mine = [(keys[row : row + 1], values[row : row + 1]) for keys, values in self.layers]
            cache = KVCache.over(mine, self.capacity, row)
            self._lent[row] = cache
            return cache

    def give_back(self, cache: KVCache) -> None:
        assert self._lent[cache.row] is cache, "lent by another pool, or given back before"
        self._lent[cache.row] = None


class ScatteredWrites:
    """One pass's view of a cache: new keys and values go to `slots_S`, `seen_ST` says which of the
    first T slots a query sees. `length` does not move."""

    def __init__(self, cache: KVCache, slots_S: Tensor, seen_ST: Tensor) -> None:
        """Raises InvalidInput where T is beyond the cache."""
        cache.check_room(seen_ST.shape[1] - cache.length)
        self.layers, self.slots, self.seen_ST = cache.layers, slots_S, seen_ST

    def attend(self, layer: int, q_1HSK: Tensor, k_1HSK: Tensor, v_1HSK: Tensor) -> Tensor:
        keys_1HTK, values_1HTK = self.layers[layer]
        end = self.seen_ST.shape[1]
        keys_1HEK = self._put(keys_1HTK, k_1HSK)[:, :, :end].to(q_1HSK.dtype)
        values_1HEK = self._put(values_1HTK, v_1HSK)[:, :, :end].to(q_1HSK.dtype)
        return F.scaled_dot_product_attention(
            q_1HSK, keys_1HEK, values_1HEK, attn_mask=self.seen_ST
        )

    def _put(self, part_1HTK: Tensor, new_1HSK: Tensor) -> Tensor:
        new_1HSK = new_1HSK.to(part_1HTK.dtype)
        if part_1HTK.itemsize == 1:  # fp8 is written as the bytes it is
            part_1HTK.view(torch.uint8).index_copy_(2, self.slots, new_1HSK.view(torch.uint8))
        else:
            part_1HTK.index_copy_(2, self.slots, new_1HSK)
        return part_1HTK


class RowWrites:
    """One pass's view of a pool: every row's new keys and values go to that row's own slots.

    `slots`: (B 1 S), consecutive in a row. A query sees the slots up to its own. All shapes are
    fixed and nothing is read by the host. Legend: B rows of the pass, the first ones of the pool.
    """

    def __init__(self, layers: Layers, slots_B1S: Tensor, attend: Attend) -> None:
        self._layers, self.slots, self._attend = layers, slots_B1S, attend
        self._rows_B1 = torch.arange(len(slots_B1S), device=slots_B1S.device)[:, None]

    def attend(self, layer: int, q_BHSK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor) -> Tensor:
        positions_BS, rows = self.slots[:, 0], len(self.slots)
        for part_RHTK, new_BHSK in zip(self._layers[layer], (k_BHSK, v_BHSK), strict=True):
            new_BSHK = new_BHSK.transpose(1, 2).to(part_RHTK.dtype)
            if part_RHTK.itemsize == 1:  # fp8 is written as the bytes it is
                part_RHTK, new_BSHK = part_RHTK.view(torch.uint8), new_BSHK.view(torch.uint8)
            part_RHTK[self._rows_B1, :, positions_BS] = new_BSHK
        keys_BHTK, values_BHTK = (part[:rows].to(q_BHSK.dtype) for part in self._layers[layer])
        return self._attend(q_BHSK, keys_BHTK, values_BHTK, positions_BS)


class Writes(Protocol):
    """Where a pass's keys and values go and what its queries see."""

    def attend(self, layer: int, q_BHSK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor) -> Tensor: ...


def causal_mask(new: int, total: int, device: torch.device) -> Tensor:
    """(S T) bool, true where a query may look: bottom-right aligned."""
    return torch.ones(new, total, dtype=torch.bool, device=device).tril(total - new)


def allocate(
    config: WorldModelConfig,
    rows: int,
    slots: int,
    device: torch.device | str,
    dtype: torch.dtype,
) -> Layers:
    """Zeroed keys and values, (R H T K) each. Raises InvalidInput.

    A tensor each: a compiled pass changes them in place, which it cannot prove of parts of one.
    """
    if slots < 1:
        raise InvalidInput("capacity", slots, "1 or more positions")
    shape = (rows, config.num_heads, slots, config.head_dim)
    return [
        (
            torch.zeros(shape, device=device, dtype=dtype),
            torch.zeros(shape, device=device, dtype=dtype),
        )
        for _ in range(config.num_layers)
    ]
