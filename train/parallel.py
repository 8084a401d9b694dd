"""Processes of one run: joining, wrapping a model (DDP or FSDP2), full tensors, agreement.

One process without torchrun is the same code with a world of one. Knows nothing about stages.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from sim_stream.errors import InvalidInput, Unavailable
from train.config import LoopConfig


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Who this process is, and the device it computes on."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        return self.rank == 0


def join(device: str = "auto") -> Ranks:
    """This process's place; under torchrun it joins the others (NCCL on GPUs, gloo on CPUs)."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cuda", "cpu"):
        raise InvalidInput("device", device, "auto, cpu, cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise Unavailable("device cuda: PyTorch sees no NVIDIA GPU here; use --device cpu")
    if device == "cuda" and local >= torch.cuda.device_count():
        raise InvalidInput(
            "nproc-per-node", local + 1, f"up to the {torch.cuda.device_count()} GPUs of this node"
        )
    place = torch.device(device, local) if device == "cuda" else torch.device("cpu")
    if device == "cuda":
        torch.cuda.set_device(place)
    if "RANK" not in os.environ:
        return Ranks(device=place)
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
    return Ranks(rank=dist.get_rank(), world=dist.get_world_size(), device=place)


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


@dataclass(frozen=True, kw_only=True)
class Share:
    """The part of a step's global batch that one rank takes in one micro-batch."""

    rank: int = 0
    world: int = 1
    micro: int = 0
    accumulate: int = 1

    def rows(self, batch: int) -> slice:
        size = batch // (self.world * self.accumulate)
        first = (self.micro * self.world + self.rank) * size
        return slice(first, first + size)


WHOLE = Share()


def check_batch(config: LoopConfig, ranks: Ranks) -> None:
    parts = ranks.world * config.accumulate
    if config.batch % parts:
        raise InvalidInput(
            "batch",
            config.batch,
            f"a multiple of {ranks.world} ranks x {config.accumulate} micro-batches",
        )


def wrap(
    model: nn.Module, ranks: Ranks, parallel: str, blocks: list[nn.Module], *, unused: bool = False
) -> nn.Module:
    """The module to call in training: DDP around the model, FSDP2 within it, or the model itself.

    `blocks` are sharded each on its own (FSDP2); `unused`: a forward may leave parameters out.
    """
    if not dist.is_initialized():
        return model
    if parallel == "fsdp":
        for block in blocks:
            fully_shard(block)
        fully_shard(model)
        return model
    places = [ranks.device.index] if ranks.device.type == "cuda" else None
    return DistributedDataParallel(model, places, find_unused_parameters=unused)


@contextmanager
def synchronised(net: nn.Module, last: bool) -> Iterator[None]:
    """Gradients are exchanged in the last micro-batch only."""
    if isinstance(net, FSDPModule):
        net.set_requires_gradient_sync(last)
        yield
    elif isinstance(net, DistributedDataParallel) and not last:
        with net.no_sync():
            yield
    else:
        yield


def whole(value: Tensor) -> Tensor:
    """The full tensor on the CPU, whether it is sharded or not. All ranks must call."""
    full = value.full_tensor() if isinstance(value, DTensor) else value
    return full.detach().cpu()


def like(value: Tensor, target: Tensor) -> Tensor:
    """A full tensor placed and sharded as `target` is."""
    value = value.to(target.device)
    if isinstance(target, DTensor) and value.shape == target.shape:
        return distribute_tensor(value, target.device_mesh, target.placements)
    return value


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The same nest of dicts and lists with every tensor replaced."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: map_tensors(item, function) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(item, function) for item in value)
    return value


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Full optimizer state into a (possibly sharded) optimizer."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    placed = {
        index: {
            k: like(v, params[index]) if isinstance(v, Tensor) and v.ndim else v
            for k, v in values.items()
        }
        for index, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": placed})


def mean_over_ranks(values: list[float], device: torch.device) -> list[float]:
    """Elementwise mean, in double precision."""
    if not dist.is_initialized():
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return (tensor / dist.get_world_size()).tolist()


def sum_over_ranks(tensor: Tensor) -> Tensor:
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor
