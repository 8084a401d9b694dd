"""A static key/value cache: allocated once, written at a position, rolled back, copied.

Rolling back costs nothing: only `length` moves, later writes overwrite. A `KVPool` holds the caches
of all sessions as rows of one tensor, so that one pass can serve several of them. A cache has one
owner, a pool may be shared by threads. Knows nothing about frames or sampling.

Legend: L layers, R rows, H heads, S new positions, T capacity and spare slots, K head dim.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from sim_stream.config import WorldModelConfig
from sim_stream.errors import InvalidInput, Unavailable


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

    def write(self, layer: int, k_1HSK: Tensor, v_1HSK: Tensor) -> tuple[Tensor, Tensor]:
        """Puts new keys and values at `length`; gives views of all valid ones and the new.

        `length` itself moves in `advance`, once per pass, after the last layer.
        """
        start, new = self.length, k_1HSK.shape[2]
        _, keys_1HTK, values_1HTK = self.layers[layer]
        keys_1HTK.narrow(2, start, new).copy_(k_1HSK)
        values_1HTK.narrow(2, start, new).copy_(v_1HSK)
        return keys_1HTK.narrow(2, 0, start + new), values_1HTK.narrow(2, 0, start + new)

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
    """One pass's view of a cache: new keys and values go to `slots_S`, slots below `end` are read.

    Which of those a query may see is the mask's business. `length` does not move.
    """

    def __init__(self, cache: KVCache, slots_S: Tensor, end: int) -> None:
        """Raises InvalidInput where `end` is beyond the cache."""
        cache.check_room(end - cache.length)
        self.layers, self.slots_S, self.end = cache.layers, slots_S, end

    def write(self, layer: int, k_1HSK: Tensor, v_1HSK: Tensor) -> tuple[Tensor, Tensor]:
        _, keys_1HTK, values_1HTK = self.layers[layer]
        keys_1HTK.index_copy_(2, self.slots_S, k_1HSK)
        values_1HTK.index_copy_(2, self.slots_S, v_1HSK)
        return keys_1HTK.narrow(2, 0, self.end), values_1HTK.narrow(2, 0, self.end)


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
