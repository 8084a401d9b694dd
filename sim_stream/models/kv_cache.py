"""A static key/value cache: allocated once, written at a position, rolled back, forked.

Rolling back costs nothing: only `length` moves, later writes overwrite. Knows nothing about frames
or sampling. Not thread-safe; a cache has one owner.

Legend: L layers, B batch, H heads, S new positions, T capacity, K head dim.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sim_stream.config import WorldModelConfig
from sim_stream.errors import InvalidInput


class KVCache:
    """Keys (0) and values (1) of every layer, (L 2 B H T K); below `length` they are valid."""

    def __init__(
        self,
        config: WorldModelConfig,
        capacity: int,
        *,
        batch: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if capacity < 1:
            raise InvalidInput("capacity", capacity, "1 or more positions")
        shape = (config.num_layers, 2, batch, config.num_heads, capacity, config.head_dim)
        self._adopt(torch.zeros(shape, device=device, dtype=dtype))
        self.capacity, self.length = capacity, 0

    def _adopt(self, kv_L2BHTK: Tensor) -> None:
        self.kv_L2BHTK = kv_L2BHTK
        # Views of each layer, made once: slicing costs as much as a small matrix product.
        self.layers = [(kv, kv[0], kv[1]) for kv in kv_L2BHTK]

    def write(self, layer: int, k_BHSK: Tensor, v_BHSK: Tensor) -> tuple[Tensor, Tensor]:
        """Puts new keys and values at `length`; gives views of all valid ones and the new.

        `length` itself moves in `advance`, once per pass, after the last layer.
        """
        start, new = self.length, k_BHSK.shape[2]
        _, keys_BHTK, values_BHTK = self.layers[layer]
        keys_BHTK.narrow(2, start, new).copy_(k_BHSK)
        values_BHTK.narrow(2, start, new).copy_(v_BHSK)
        return keys_BHTK.narrow(2, 0, start + new), values_BHTK.narrow(2, 0, start + new)

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

    def fork(self) -> KVCache:
        """An independent copy with the same contents."""
        twin = object.__new__(KVCache)
        twin._adopt(self.kv_L2BHTK.clone())
        twin.capacity, twin.length = self.capacity, self.length
        return twin


class ScatteredWrites:
    """One pass's view of a cache: new keys and values go to `slots_S`, slots below `end` are read.

    Which of those a query may see is the mask's business. `length` does not move.
    """

    def __init__(self, cache: KVCache, slots_S: Tensor, end: int) -> None:
        """Raises InvalidInput where `end` is beyond the cache."""
        cache.check_room(end - cache.length)
        self.layers, self.slots_S, self.end = cache.layers, slots_S, end

    def write(self, layer: int, k_BHSK: Tensor, v_BHSK: Tensor) -> tuple[Tensor, Tensor]:
        _, keys_BHTK, values_BHTK = self.layers[layer]
        keys_BHTK.index_copy_(2, self.slots_S, k_BHSK)
        values_BHTK.index_copy_(2, self.slots_S, v_BHSK)
        return keys_BHTK.narrow(2, 0, self.end), values_BHTK.narrow(2, 0, self.end)
