"""What a figure was measured on: as the profiler says it."""

from sim_stream.bench.machine import describe

__all__ = ["describe"]
