"""Figures from samples: percentiles, jitter, missed deadlines, histograms.

A percentile is given only where the samples support it: at least one of them must be expected above
it, so p99 needs 100 samples and p99.9 a thousand. Knows nothing about where samples come from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

PERCENTILES = (50.0, 95.0, 99.0, 99.9)

Summary = dict[str, float | int | None]


def name_of(percentile: float) -> str:
    """`p50`, `p99.9`."""
    return f"p{percentile:g}"


def supports(samples: int, percentile: float) -> bool:
    """Whether one sample or more is expected above the percentile; p50 needs two in all."""
    # Rounded: 1000 * (1 - 0.999) is a little below 1 in floating point.
    return samples >= 2 and round(samples * (100.0 - percentile), 6) >= 100.0


def summarise(values: Sequence[float]) -> Summary:
    """`n`, the percentiles (None where unsupported) and `max`, rounded to microseconds of a ms."""
    found: Summary = {"n": len(values)}
    for percentile in PERCENTILES:
        there = supports(len(values), percentile)
        value = round(float(np.percentile(values, percentile)), 3) if there else None
        found[name_of(percentile)] = value
    found["max"] = round(max(values), 3) if values else None
    return found


def jitter(arrivals_ms: Sequence[float], period_ms: float | None) -> Summary:
    """How evenly frames arrive.

    `std_ms`: standard deviation of the time between arrivals. `p99_deviation_ms`: 99th percentile
    of its distance from the period; free-running, from its own median.
    """
    gaps_ms = np.diff(arrivals_ms)
    if len(gaps_ms) < 2:
        return {"n": len(gaps_ms), "std_ms": None, "p99_deviation_ms": None, "max_gap_ms": None}
    expected_ms = float(np.median(gaps_ms)) if period_ms is None else period_ms
    p99 = np.percentile(np.abs(gaps_ms - expected_ms), 99) if supports(len(gaps_ms), 99) else None
    return {
        "n": len(gaps_ms),
        "std_ms": round(float(np.std(gaps_ms)), 3),
        "p99_deviation_ms": None if p99 is None else round(float(p99), 3),
        "max_gap_ms": round(float(gaps_ms.max()), 3),
    }


@dataclass(frozen=True, kw_only=True)
class Misses:
    count: int
    ratio: float
    longest_run: int


def misses(latencies_ms: Iterable[float], deadline_ms: float) -> Misses:
    """Replies later than the deadline, and the longest row of them."""
    late = [latency_ms > deadline_ms for latency_ms in latencies_ms]
    longest = row = 0
    for is_late in late:
        row = row + 1 if is_late else 0
        longest = max(longest, row)
    ratio = round(sum(late) / len(late), 4) if late else 0.0
    return Misses(count=sum(late), ratio=ratio, longest_run=longest)


def histogram(values: Iterable[int]) -> dict[str, int]:
    """Value -> how often, in order; JSON wants text for keys."""
    return {str(value): count for value, count in sorted(Counter(values).items())}


def mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
