"""Time of one pass of the world model by the number of ids it takes, in this process.

What jacobi decoding costs a pass at each window; with random weights the only figure about it that
means something, since how many tokens per pass brings depends on what the model knows. The cache
stands in the middle of a stream. Knows nothing about sockets.

Legend: N codes of a frame, V codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from sim_stream.bench.calibration import timed_s
from sim_stream.bench.counting import PassSize
from sim_stream.config import DecodingConfig
from sim_stream.decoding.noise import gumbel_noise
from sim_stream.decoding.strategy import Task
from sim_stream.models.kv_cache import KVCache
from sim_stream.pipelines.tokens.runtime import Runtime

REPEATS, WARM_UP = 15, 3


@dataclass(frozen=True, kw_only=True)
class WindowTime:
    """Median and fastest of the passes over ``size``."""

    window: int
    size: PassSize
    p50_ms: float
    min_ms: float


def windows(codes_per_frame: int) -> list[int]:
    """1, 2, 4, ... and the whole frame."""
    powers = [1 << n for n in range(codes_per_frame.bit_length()) if 1 << n < codes_per_frame]
    return [*powers, codes_per_frame]


def sweep(runtime: Runtime, seen: Callable[[], object] = lambda: None) -> list[WindowTime]:
    """One entry per window; ``seen`` is called after each. Needs a free session's cache."""
    cache = runtime.pool.take()
    try:
        with torch.inference_mode(), runtime.streams.world_model():  # as the passes themselves
            _fill(runtime, cache)
            codes = runtime.layout.codes_per_frame
            return [_time_window(runtime, cache, window, seen) for window in windows(codes)]
    finally:
        runtime.pool.give_back(cache)


def _fill(runtime: Runtime, cache: KVCache) -> None:
    """As many frames as there are on average; the last one's code and end stay pending."""
    layout, session = runtime.layout, runtime.preset.session
    frames = (session.anchor_frames + session.context_frames - 1) // 2
    shape = (1, layout.frame_start(frames) - 2)
    runtime.world_model(torch.randint(layout.num_codes, shape, device=runtime.device), None, cache)


def _time_window(
    runtime: Runtime, cache: KVCache, window: int, seen: Callable[[], object]
) -> WindowTime:
    """The second pass of a frame, again and again: the first one also takes what leads to it."""
    layout, device, start = runtime.layout, runtime.device, cache.length
    noise_NV = gumbel_noise(0, 1, layout.codes_per_frame, layout.num_codes, device)
    lead_1P = torch.zeros(1, layout.lead_length, dtype=torch.int64, device=device)
    guess_N = torch.zeros(layout.codes_per_frame, dtype=torch.int64, device=device)
    task = Task(cache, lead_1P, noise_NV, runtime.preset.sampling, guess_N)
    decoding = DecodingConfig(strategy="jacobi", window=window)

    def second_pass() -> float:
        slot = runtime.begin(decoding, task)
        try:
            runtime.advance()
            return 1e3 * timed_s(device, runtime.advance)
        finally:
            runtime.drop(slot)
            cache.roll_back(start)

    ms = sorted([second_pass() for _ in range(WARM_UP + REPEATS)][WARM_UP:])
    seen()
    rows = min(window, layout.codes_per_frame - 1)  # the first pass brought one code at least
    size = PassSize(ids=rows, rows=rows, end=start + lead_1P.shape[1] + rows)
    return WindowTime(window=window, size=size, p50_ms=ms[len(ms) // 2], min_ms=ms[0])
