"""What a stage will cost, computed before anything is spent: parameters, memory, time of a step.

The stage is built on the meta device and its step is traced there: FLOPs are counted exactly, and
what autograd keeps is added up. Attention matrices are left out (flash attention keeps none). World
models are traced with one and two layers and extended linearly.

Legend: per rank and micro-batch, bytes; bf16 activations.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sim_stream.config import Preset
from sim_stream.errors import InvalidInput
from train.config import LoopConfig
from train.parallel import Ranks

# Dense bf16 tensor-core peaks in TFLOP/s (NVIDIA's data sheets), by a part of the device's name.
PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "B200": 2250.0}
UTILISATION = 0.2  # of the peak, assumed: the paper's hours on H100s are 5 to 22 % of it


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One forward and backward pass of a micro-batch on one rank."""

    kept_bytes: float
    flops: float

    def plus(self, other: Trace, times: float = 1.0) -> Trace:
        return Trace(
            kept_bytes=self.kept_bytes + times * other.kept_bytes,
            flops=self.flops + times * other.flops,
        )


def trace(model: nn.Module, run: Callable[[], Tensor], positions: int | None = None) -> Trace:
    """`run` gives a scalar on the meta device. `positions`: S of attention matrices, left out."""
    storages: dict[int, Any] = {}
    own = {p.untyped_storage()._cdata for p in model.parameters()}

    def keep(x: Tensor) -> Tensor:
        square = x.ndim > 2 and x.shape[-1] == x.shape[-2] == positions
        storage = x.untyped_storage()
        if not square and storage._cdata not in own:
            storages[storage._cdata] = storage
        return x

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            value = run()
        value.backward()
    kept = sum(storage.nbytes() for storage in storages.values())
    return Trace(kept_bytes=kept, flops=counter.get_total_flops())


def count(model: nn.Module) -> dict[str, int]:
    """Parameters: all, and those that are trained."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return {"total": sum(n for n, _ in sizes), "trainable": sum(n for n, on in sizes if on)}


def state_bytes(model: nn.Module, loop: LoopConfig) -> dict[str, int]:
    """What lies in memory through the whole run, without sharding."""
    trained = [p for p in model.parameters() if p.requires_grad]
    size = sum(p.numel() * p.element_size() for p in trained)
    return {
        "weights": sum(p.numel() * p.element_size() for p in model.parameters()),
        "gradients": size,
        "optimizer": 2 * size,
        "ema": size if loop.ema_decay is not None else 0,
    }


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One JSON line; memory in GB of one rank, times in s and hours."""

    stage: str
    preset: str
    total: int
    trainable: int
    discriminator: int
    ranks: int
    batch: int
    micro_batch: int
    memory_gb: dict[str, float]
    memory_total_gb: float
    step_tflop: float  # of one rank
    device: str
    step_s: float | None
    run_hours: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        parts = ", ".join(f"{k} {v:.2f}" for k, v in self.memory_gb.items())
        share = 100 * self.trainable / self.total
        text = [
            f"{self.stage} of {self.preset}",
            f"parameters    {self.total:,} total, {self.trainable:,} trainable ({share:.2f} %)",
            f"discriminator {self.discriminator:,}",
            f"batch         {self.batch}: {self.ranks} ranks, micro-batches of {self.micro_batch}",
            f"memory        {self.memory_total_gb:.2f} GB a rank ({parts})",
            f"compute       {self.step_tflop:,.1f} TFLOP a step and rank",
        ]
        if self.step_s is not None:
            text.append(
                f"time          {self.step_s:.2f} s a step, {self.run_hours:.1f} h in all, at "
                f"{100 * UTILISATION:.0f} % of the peak of {self.device}"
            )
        return text


def peak_flops(device: torch.device) -> tuple[str, float]:
    """(name, FLOP/s): the data sheet's for a known GPU, otherwise measured with one product."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"
    for known, tflops in PEAK_TFLOPS.items():
        if known in name:
            return name, tflops * 1e12
    return name, measured_flops(device)


def measured_flops(device: torch.device, size: int = 1024) -> float:
    import time

    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    best = 1e9
    for _ in range(3):
        start = time.perf_counter()
        (a @ a).sum().item()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def named_peak(name: str) -> tuple[str, float]:
    """A GPU of the table, for planning on another machine. Raises InvalidInput."""
    if name not in PEAK_TFLOPS:
        raise InvalidInput("estimate-for", name, ", ".join(PEAK_TFLOPS))
    return name, PEAK_TFLOPS[name] * 1e12


def available_bytes(device: torch.device) -> int:
    """Memory that is free now on the device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_memory(needed_bytes: float, ranks: Ranks) -> None:
    """Raises InvalidInput where what a run holds for certain does not fit."""
    free = available_bytes(ranks.device)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if ranks.device.type == "cpu" else 1
    if here * needed_bytes > free:
        raise InvalidInput(
            "memory",
            f"{free / 1e9:.1f} GB free on {ranks.device}",
            f"{here * needed_bytes / 1e9:.1f} GB or more for weights, gradients and optimizer; "
            "more ranks with --parallel fsdp, or a smaller model",
        )


def one_layer_each(preset: Preset, layers: int) -> Preset:
    return replace(preset, world_model=replace(preset.world_model, num_layers=layers))
