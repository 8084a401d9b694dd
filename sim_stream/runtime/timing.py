"""Per-stage clocks of one step, in nanoseconds.

On a GPU a stage ends when the device has finished it, so that its time is its own and not the next
one's. (Event-based timing without that wait belongs to the profiler.)
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class StageClock:
    """`with clock.stage("encode"): ...` adds to `timings_ns["encode"]`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.timings_ns: dict[str, int] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start_ns = time.perf_counter_ns()
        yield
        self.add(name, start_ns)

    def add(self, name: str, start_ns: int) -> None:
        """Adds the time from `start_ns` (of `time.perf_counter_ns`) to now."""
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        self.timings_ns[name] = self.timings_ns.get(name, 0) + time.perf_counter_ns() - start_ns
