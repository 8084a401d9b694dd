"""Per-stage clocks of one step, in nanoseconds, and the streams that the stages run on.

On a GPU a stage is timed by events in its stream: nobody waits for them until the times are read,
which is when the frame's pixels are there. Knows no models.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor


class StageClock:
    """`with clock.stage("encode"): ...` adds to `timings_ns["encode"]`."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._timings_ns: dict[str, int] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        if self._on_gpu:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            yield
            end.record()
            self._events.append((name, start, end))
        else:
            start_ns = time.perf_counter_ns()
            yield
            self.add(name, start_ns)

    def add(self, name: str, start_ns: int) -> None:
        """Adds the time from `start_ns` (of `time.perf_counter_ns`) to now, as the host saw it."""
        elapsed_ns = time.perf_counter_ns() - start_ns
        self._timings_ns[name] = self._timings_ns.get(name, 0) + elapsed_ns

    @property
    def timings_ns(self) -> dict[str, int]:
        """Waits, on a GPU, for the stages to end."""
        while self._events:
            name, start, end = self._events.pop(0)
            end.synchronize()
            elapsed_ns = round(start.elapsed_time(end) * 1e6)
            self._timings_ns[name] = self._timings_ns.get(name, 0) + elapsed_ns
        return self._timings_ns


class Streams:
    """Two CUDA streams: the world model's, which goes first, and the video decoder's.

    So a frame is decoded while the next one is predicted. On a CPU threads do the same, and both
    contexts are empty.
    """

    def __init__(self, device: torch.device) -> None:
        self._world_model = self._video = None
        if device.type == "cuda":
            self._world_model = torch.cuda.Stream(device, priority=-1)
            self._video = torch.cuda.Stream(device, priority=0)

    def world_model(self) -> AbstractContextManager[object]:
        return nullcontext() if self._world_model is None else torch.cuda.stream(self._world_model)

    def video(self) -> AbstractContextManager[object]:
        return nullcontext() if self._video is None else torch.cuda.stream(self._video)

    def hand_over(self, ids: Tensor) -> None:
        """What the video decoder's stream does from here on happens after these ids are there."""
        if self._video is not None:
            self._video.wait_stream(torch.cuda.current_stream(ids.device))
            ids.record_stream(self._video)


def to_device(values: list[int], device: torch.device) -> Tensor:
    """Integers on the device, (len,), without waiting for it."""
    host = torch.tensor(values, dtype=torch.int64, pin_memory=device.type == "cuda")
    return host.to(device, non_blocking=True)
