"""What this machine's memory and arithmetic do at best: the rates that rooflines stand on.

Measured before anything else runs, on the device and with the number of threads that each stage
gets. Knows no models; is told the types in use and how many bytes a pass reads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

MIB = 1 << 20
# Far beyond any cache. A GPU needs more to fill the time between two launches.
COPY_BYTES = {"cpu": 256 * MIB, "cuda": 1024 * MIB}
GEMM_SIZE = {"cpu": 1536, "cuda": 8192}
REPEATS, WARM_UP = 7, 2
COLUMNS = 4096
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """``copy_gb_per_s``: read and written bytes, buffers far beyond the caches.

    ``read_gb_per_s``: of a buffer of ``read_bytes``, what a pass of the world model reads, again
    and again: where that fits into a cache it is the cache's rate. ``gemm_tflop_per_s`` by type.
    """

    device: str
    threads: int
    copy_gb_per_s: float
    read_gb_per_s: float
    read_bytes: int
    gemm_tflop_per_s: dict[str, float]


def calibrate(
    device: torch.device, threads: int, dtypes: Iterable[torch.dtype], read_bytes: int
) -> Calibration:
    """Takes a few seconds. Leaves the number of threads of this process as it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        kind = device.type
        read_bytes = min(max(read_bytes, MIB), COPY_BYTES[kind])
        return Calibration(
            device=kind,
            threads=threads,
            copy_gb_per_s=round(copy_rate(device, COPY_BYTES[kind]) / 1e9, 3),
            read_gb_per_s=round(read_rate(device, read_bytes) / 1e9, 3),
            read_bytes=read_bytes,
            gemm_tflop_per_s={
                NAMES[dtype]: round(gemm_rate(device, dtype, GEMM_SIZE[kind]) / 1e12, 5)
                for dtype in sorted(set(dtypes), key=str)
            },
        )
    finally:
        torch.set_num_threads(before)
        if device.type == "cuda":
            torch.cuda.empty_cache()  # the server needs it


def copy_rate(device: torch.device, size: int) -> float:
    """Bytes a second, each once read and once written."""
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    return 2 * size / best_s(device, lambda: target.copy_(source))


def read_rate(device: torch.device, size: int) -> float:
    """Bytes a second of a matrix-vector product, which reads its matrix once."""
    matrix = torch.ones(size // 4 // COLUMNS, COLUMNS, device=device)
    vector, result = torch.ones(COLUMNS, device=device), torch.empty(len(matrix), device=device)

    def read() -> Tensor:
        return torch.mv(matrix, vector, out=result)

    times = max(1, 64 * MIB // size)  # a small buffer is read in microseconds
    return times * matrix.nbytes / best_s(device, lambda: [read() for _ in range(times)])


def gemm_rate(device: torch.device, dtype: torch.dtype, n: int) -> float:
    """Operations a second of an (n n) by (n n) product."""
    # Not ones: a GPU draws less power for them and clocks higher than it will on real numbers.
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    c = torch.empty_like(a)
    return 2 * n**3 / best_s(device, lambda: torch.mm(a, b, out=c))


def best_s(device: torch.device, work: Callable[[], object]) -> float:
    """Shortest time of ``work`` after two unmeasured rounds: what can be, not what is usual."""
    for _ in range(WARM_UP):
        work()
    return min(timed_s(device, work) for _ in range(REPEATS))


def timed_s(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds of ``work``; on a GPU the device's own time."""
    if device.type != "cuda":
        start_ns = time.perf_counter_ns()
        work()
        return (time.perf_counter_ns() - start_ns) / 1e9
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3
