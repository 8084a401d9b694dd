"""What every decoding strategy takes, asks for and gives.

A strategy is written as a generator: it yields the draws that it needs next and is sent the ids
that were drawn. So it knows no model, and whoever runs it can let several frames share a pass.

Legend: P leading ids, N codes of a frame, S ids of a pass, R rows that are drawn, V codes, T cache
slots.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:  # see kind
    from torch import Tensor

    from sim_stream.config import SamplingConfig
    from sim_stream.models.kv_cache import KVCache


@dataclass(frozen=True, eq=False)
class Task:
    """A frame to be decoded after what `cache` holds.

    `lead_1P`: what stands between the cache and the first code (pending ids, actions). `guess_N`:
    what the codes may be. `expired`: whether time is up, where the strategy takes a deadline; None:
    it never is.
    """

    cache: KVCache
    lead_1P: Tensor
    noise_NV: Tensor
    sampling: SamplingConfig
    guess_N: Tensor
    expired: Callable[[], bool] | None = None


@dataclass(frozen=True, eq=False)
class Positions:
    """Where the ids of a pass go when they do not follow the cache in order.

    `slots_S`: their cache slots; `seen_ST`: the slots below T that each may look at.
    """

    slots_S: Tensor
    seen_ST: Tensor


@dataclass(frozen=True, eq=False)
class Draw:
    """Asks for ids (R,), drawn after each of the last R of `ids_1S`, all of which enter the cache.

    With `places` the cache's length stays as it is.
    """

    cache: KVCache
    ids_1S: Tensor
    noise_RV: Tensor
    sampling: SamplingConfig
    positions: Positions | None = None


@dataclass(frozen=True, eq=False)
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


Draws: TypeAlias = "Generator[Draw, Tensor, Decoded]"


class Strategy(Protocol):
    def decode(self, task: Task) -> Draws:
        """The cache then holds what is certain, but for the last code, which was drawn, not fed."""
        ...
