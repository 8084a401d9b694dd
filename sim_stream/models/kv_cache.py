"""A static key/value cache: allocated once, written at a position, rolled back, copied.

Rolling back costs nothing: only `length` moves, later writes overwrite. A `KVPool` holds the caches
of all sessions as rows of one tensor, so that one pass can serve several of them. A cache has one
owner, a pool may be shared by threads. Knows nothing about frames or sampling.

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


class KVCache:
    """Keys (0) and values (1) of every layer, (L 2 1 H T K); below `length` they are valid."""

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
    def over(cls, kv_L21HTK: Tensor, capacity: int, row: int) -> KVCache:
        """A cache in memory that a pool owns; slots beyond `capacity` are spare."""
        cache = object.__new__(cls)
        cache._adopt(kv_L21HTK, capacity, row)
        return cache

    def _adopt(self, kv_L21HTK: Tensor, capacity: int, row: int) -> None:
        self.kv_L21HTK, self.capacity, self.row, self.length = kv_L21HTK, capacity, row, 0
        # Views of each layer, made once: slicing costs as much as a small matrix product.
        self.layers = [(kv, kv[0], kv[1]) for kv in kv_L21HTK]
        self._mask_ST: Tensor | None = None  # of the latest pass of several ids

    def attend(self, layer: int, q_1HSK: Tensor, k_1HSK: Tensor, v_1HSK: Tensor) -> Tensor:
        """New keys and values go to `length`; a query sees all valid ones and the new up to itself.

        `length` itself moves in `advance`, once per pass, after the last layer.
        """
        start, new = self.length, k_1HSK.shape[2]
        _, keys_1HTK, values_1HTK = self.layers[layer]
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
        target = self.kv_L21HTK.narrow(-2, 0, length)
        target.copy_(other.kv_L21HTK.narrow(-2, 0, length))
        self.length = length


class KVPool:
    """Caches of equal capacity as rows of one tensor (L 2 R H T K); `take` lends a row.

    T is `capacity` and `spare` slots, which passes may write and no query of worth ever sees.
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
        self.kv_L2RHTK = allocate(config, rows, capacity + spare, device, dtype)
        self._lent: list[KVCache | None] = [None] * rows
        self._lock = threading.Lock()

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
            cache = KVCache.over(self.kv_L2RHTK[:, :, row : row + 1], self.capacity, row)
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
        _, keys_1HTK, values_1HTK = self.layers[layer]
        end = self.seen_ST.shape[1]
        keys_1HTK.index_copy_(2, self.slots, k_1HSK)
        values_1HTK.index_copy_(2, self.slots, v_1HSK)
        return F.scaled_dot_product_attention(
            q_1HSK,
            keys_1HTK.narrow(2, 0, end),
            values_1HTK.narrow(2, 0, end),
            attn_mask=self.seen_ST,
        )


class RowWrites:
    """One pass's view of a pool: every row's new keys and values go to that row's own slots.

    `slots`: (B 1 S), consecutive in a row. A query sees the slots up to its own. All shapes are
    fixed and nothing is read by the host. Legend: B rows of the pass, the first ones of the pool.
    """

    def __init__(self, kv_L2RHTK: Tensor, slots_B1S: Tensor, attend: Attend) -> None:
        self._kv, self.slots, self._attend = kv_L2RHTK[:, :, : len(slots_B1S)], slots_B1S, attend
        self._rows_B1 = torch.arange(len(slots_B1S), device=slots_B1S.device)[:, None]

    def attend(self, layer: int, q_BHSK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor) -> Tensor:
        positions_BS, cached = self.slots[:, 0], self._kv[layer]
        for part_BHTK, new_BHSK in zip(cached, (k_BHSK, v_BHSK), strict=True):
            place = (self._rows_B1, positions_BS)
            part_BHTK.transpose(1, 2).index_put_(place, new_BHSK.transpose(1, 2).to(cached.dtype))
        keys_BHTK, values_BHTK = cached.to(q_BHSK.dtype)
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
) -> Tensor:
    """Zeroed keys and values, (L 2 R H T K). Raises InvalidInput."""
    if slots < 1:
        raise InvalidInput("capacity", slots, "1 or more positions")
    shape = (config.num_layers, 2, rows, config.num_heads, slots, config.head_dim)
    return torch.zeros(shape, device=device, dtype=dtype)
