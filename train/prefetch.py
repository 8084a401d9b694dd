"""The next batch is read while this one is trained on: one thread, one batch ahead.

A batch is a function of (step, share) alone, so reading ahead changes nothing; what was read for a
step that never comes is dropped. On a GPU a batch is pinned and copied while the GPU works.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeAlias

from torch import Tensor

from train.parallel import Ranks, Share

Batch: TypeAlias = tuple[Tensor, ...]


class Prefetch:
    """`read`: a stage's batch, on the CPU. Used inside a `with`, it reads ahead; without, not."""

    def __init__(self, read: Callable[[int, Share], Batch], ranks: Ranks, accumulate: int) -> None:
        self._read, self._ranks, self._accumulate = read, ranks, accumulate
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: tuple[int, int, Future[Batch]] | None = None

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._pool is not None
        self._pool.shutdown(cancel_futures=True)
        self._pool, self._ahead = None, None

    def get(self, step: int, micro: int) -> Batch:
        """This rank's micro-batch, on its device; raises what reading it raised."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[:2] == (step, micro):
            batch = ahead[2].result()
        else:
            batch = self._load(step, micro)
        if self._pool is not None:
            following = (step, micro + 1) if micro + 1 < self._accumulate else (step + 1, 0)
            self._ahead = (*following, self._pool.submit(self._load, *following))
        device = self._ranks.device
        return tuple(x.to(device, non_blocking=device.type == "cuda") for x in batch)

    def _load(self, step: int, micro: int) -> Batch:
        ranks = self._ranks
        share = Share(rank=ranks.rank, world=ranks.world, micro=micro, accumulate=self._accumulate)
        batch = self._read(step, share)
        return tuple(x.pin_memory() for x in batch) if ranks.device.type == "cuda" else batch
