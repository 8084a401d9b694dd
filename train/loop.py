"""One training loop for every stage: time or step budget, cosine schedule, EMA, resume.

A stage gives a model, a `batch(step)` function and a `loss(batch)` function; the loop knows nothing
of what is trained. Batches are drawn from (seed, step), so a resumed run sees the same data.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

from sim_stream.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """`minutes` stretches the schedule over wall time; the budget that ends first ends."""

    out: Path
    steps: int
    minutes: float = 1e9
    lr: float = 4e-4
    warmup_steps: int = 100
    final_lr_ratio: float = 0.02
    weight_decay: float = 0.01
    muon: str | None = None
    ema_decay: float = 0.998
    clip_norm: float = 1.0
    log_every: int = 25
    save_every: int = 250
    seed: int = 0


class Ema:
    """Exponential moving average of weights, with the usual early-step correction."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.shadow = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for key, value in model.state_dict().items():
            self.shadow[key].lerp_(value, 1.0 - decay)


def save_atomic(state: dict[str, Any], path: Path) -> None:
    """Write beside, then rename: a cut-off save never leaves a broken file under `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def join_ranks() -> tuple[int, int]:
    """(rank, ranks) of this process; under torchrun joins the others (gloo)."""
    if "RANK" not in os.environ:
        return 0, 1
    dist.init_process_group("gloo")
    return dist.get_rank(), dist.get_world_size()


def average(tensors: list[Tensor]) -> None:
    """In place, over all ranks, in one message."""
    if not dist.is_initialized():
        return
    flat = torch.cat([t.flatten() for t in tensors])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


class MuonAdamW:
    """Muon for the matrices inside the model, AdamW for the rest, driven as one optimizer.

    Muon's step is scaled to AdamW's usual size (Liu et al., arXiv 2502.16982), so that both follow
    one learning rate.
    """

    def __init__(self, inner: list[nn.Parameter], rest: list[nn.Parameter], c: LoopConfig) -> None:
        self.parts = (
            torch.optim.Muon(
                inner, c.lr, weight_decay=c.weight_decay, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(rest, c.lr, (0.9, 0.95), weight_decay=c.weight_decay),
        )

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {str(i): part.state_dict() for i, part in enumerate(self.parts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for i, part in enumerate(self.parts):
            part.load_state_dict(state[str(i)])


def make_optimizer(model: nn.Module, config: LoopConfig) -> MuonAdamW | torch.optim.AdamW:
    """AdamW; with `config.muon` a parameter-name prefix, Muon for the matrices under it."""
    if config.muon is None:
        return torch.optim.AdamW(
            model.parameters(), config.lr, (0.9, 0.95), weight_decay=config.weight_decay
        )
    named = list(model.named_parameters())
    inner = [p for name, p in named if name.startswith(config.muon) and p.ndim == 2]
    chosen = {id(p) for p in inner}
    return MuonAdamW(inner, [p for _, p in named if id(p) not in chosen], config)


class Trainer:
    """Runs a stage. State on disk: `last.pt` (everything) and `log.jsonl` (one line per log).

    Ranks differ only in their batches: gradients and clock are averaged, rank 0 saves and logs.
    """

    def __init__(
        self, model: nn.Module, config: LoopConfig, companions: Mapping[str, Any] | None = None
    ) -> None:
        """`companions`: what else has a state_dict that a resumed run needs."""
        self.model, self.config = model, config
        self.companions = dict(companions or {})
        self.optimizer = make_optimizer(model, config)
        self.ema = Ema(model, config.ema_decay)
        self.step, self.spent_s = 0, 0.0
        self.leads = not dist.is_initialized() or dist.get_rank() == 0

    @property
    def checkpoint(self) -> Path:
        return self.config.out / "last.pt"

    def resume(self) -> bool:
        if not self.checkpoint.is_file():
            return False
        state = load_checkpoint(self.checkpoint)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.shadow = state["ema"]
        for name, companion in self.companions.items():
            companion.load_state_dict(state["companions"][name])
        self.step, self.spent_s = state["step"], state["spent_s"]
        return True

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "ema": self.ema.shadow,
            "optimizer": self.optimizer.state_dict(),
            "companions": {k: v.state_dict() for k, v in self.companions.items()},
            "step": self.step,
            "spent_s": self.spent_s,
        }
        save_atomic(state, self.checkpoint)

    def progress(self) -> float:
        """Share of the budget that is used, by steps or by time, whichever is further."""
        return max(self.step / self.config.steps, self.spent_s / (60.0 * self.config.minutes))

    def learning_rate(self) -> float:
        c = self.config
        warm = min(1.0, (self.step + 1) / c.warmup_steps)
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, self.progress())))
        return c.lr * warm * (c.final_lr_ratio + (1.0 - c.final_lr_ratio) * cosine)

    def run(
        self,
        loss: Callable[[int], tuple[Tensor, dict[str, float]]],
        after_step: Callable[[int], None] = lambda step: None,
        validate: Callable[[], dict[str, float]] | None = None,
    ) -> None:
        """`loss(step)` draws the batch of that step and gives the loss and figures to log."""
        c = self.config
        bar = tqdm(
            total=100,
            disable=not self.leads,
            mininterval=5.0,
            bar_format="{l_bar}{bar}| {elapsed}<{remaining} {postfix}",
        )
        while self.progress() < 1.0:
            start = time.perf_counter()
            lr = self.learning_rate()
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            value, figures = loss(self.step)
            if not torch.isfinite(value):
                raise CheckpointError(f"step {self.step}: loss is {value.item()}; {figures}")
            self.optimizer.zero_grad(set_to_none=True)
            value.backward()
            self.synchronise(start)
            nn.utils.clip_grad_norm_(self.model.parameters(), c.clip_norm)
            self.optimizer.step()
            self.step += 1
            self.ema.update(self.model, self.step)
            after_step(self.step)
            bar.update(100 * min(1.0, self.progress()) - bar.n)
            if self.step % c.log_every == 0:
                self.log({"lr": lr, "loss": value.item(), **figures}, bar)
            if self.step % c.save_every == 0:
                self.save_and_validate(validate, bar)
        self.save_and_validate(validate, bar)
        bar.close()

    def synchronise(self, start: float) -> None:
        """Averages gradients and the time spent, so that all ranks agree where they are."""
        spent = torch.tensor([self.spent_s + time.perf_counter() - start])
        average([p.grad for p in self.model.parameters() if p.grad is not None] + [spent])
        self.spent_s = spent.item()

    def save_and_validate(self, validate: Callable[[], dict[str, float]] | None, bar: Any) -> None:
        if not self.leads:
            return
        self.save()
        if validate is not None:
            self.log({f"val_{k}": v for k, v in self.with_ema(validate).items()}, bar)

    def with_ema(self, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Figures of the averaged weights; the trained ones are put back."""
        trained = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self.model.load_state_dict(self.ema.shadow)
        self.model.eval()
        try:
            with torch.no_grad():
                return measure()
        finally:
            self.model.load_state_dict(trained)
            self.model.train()

    def log(self, figures: dict[str, float], bar: Any) -> None:
        if not self.leads:
            return
        bar.set_postfix({k: f"{v:.4g}" for k, v in figures.items()})
        line = {"step": self.step, "minutes": round(self.spent_s / 60, 2), **figures}
        with (self.config.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
