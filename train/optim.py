"""Optimisers and learning rates. Knows nothing about what is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sim_stream.errors import InvalidInput
from train.config import LoopConfig


def learning_rate(config: LoopConfig, step: int, progress: float) -> float:
    """Linear warm-up to `lr`, cosine to `final_lr`, which is then kept.

    The cosine takes `decay_steps`, or what is left of the budget: `progress` is the used share.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.decay_steps is None:
        done = min(1.0, progress)
    else:
        done = min(1.0, (step - config.warmup_steps) / config.decay_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * done))
    return config.final_lr + (config.lr - config.final_lr) * cosine


class MuonAdamW:
    """Muon for the matrices inside the model, AdamW for the rest, driven as one optimizer.

    Muon's step is scaled to AdamW's usual size (Liu et al., arXiv 2502.16982), so that both follow
    one learning rate.
    """

    def __init__(self, inner: list[nn.Parameter], rest: list[nn.Parameter], c: LoopConfig) -> None:
        self.parts: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(
                inner, c.lr, weight_decay=c.weight_decay, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(rest, c.lr, c.betas, weight_decay=c.weight_decay),
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


Optimizer = MuonAdamW | torch.optim.AdamW


def make_optimizer(model: nn.Module, config: LoopConfig) -> Optimizer:
    """AdamW over what is trained; with `config.muon` a parameter-name prefix, Muon for the
    matrices under it."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if config.muon is None:
        return torch.optim.AdamW(
            [p for _, p in named], config.lr, config.betas, weight_decay=config.weight_decay
        )
    inner = [p for name, p in named if name.startswith(config.muon) and p.ndim == 2]
    if not inner:
        raise InvalidInput("muon", config.muon, f"the beginning of a name as {named[0][0]}")
    chosen = {id(p) for p in inner}
    return MuonAdamW(inner, [p for _, p in named if id(p) not in chosen], config)
