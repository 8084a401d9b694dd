"""One training loop for every stage: schedule, accumulation, EMA, checkpoints, exact resume.

A stage gives models, batches and losses (`Stage`); the loop knows nothing of what is trained. All
chance in a step follows from (seed, step, rank), so a run that goes on from a checkpoint ends with
the weights of one that was never interrupted, as long as its budget is counted in steps.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sim_stream.errors import CheckpointError, SimStreamError, Unavailable
from train import checkpoint
from train.config import LoopConfig
from train.optim import MuonAdamW, Optimizer, learning_rate, make_optimizer
from train.parallel import (
    Ranks,
    Share,
    check_batch,
    like,
    load_optimizer,
    map_tensors,
    mean_over_ranks,
    synchronised,
    whole,
    wrap,
)
from train.prefetch import Prefetch
from train.report import Report
from train.stop import StopRequest

Figures = dict[str, float]


class Diverged(SimStreamError):
    """The loss or its gradient is not finite; the batch was saved."""


@dataclass
class Player:
    """A model that plays against the stage's own, a discriminator.

    `optimizer` None: one of the loop's kind, on the loop's schedule.
    """

    model: nn.Module
    optimizer: Optimizer | None = None


@dataclass
class Part:
    """One model with its optimiser: the stage's own, or a player's."""

    model: nn.Module
    optimizer: Optimizer
    scheduled: bool = True


class Stage(Protocol):
    """What the loop asks of a stage. `model` is trained; the `players` play against it."""

    model: nn.Module
    players: Mapping[str, Player]  # by name, which its figures begin with
    unused: bool  # whether a forward may leave parameters out
    replaced: set[str]  # tensors set anew in this step, which an average takes over as they are

    def blocks(self) -> list[nn.Module]:
        """Submodules that are sharded each on its own (FSDP2)."""

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must share with this run, as JSON values."""

    def batch(self, step: int, share: Share) -> tuple[Tensor, ...]:
        """That share of the step's global batch, on the CPU, frames as uint8.

        A function of both alone: the loop calls it ahead, on a thread of its own.
        """

    def loss(self, net: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Any]]:
        """Loss and figures of a batch on the device; `net` is `model`, wrapped."""

    def player_loss(self, name: str, net: nn.Module) -> Tensor | None:
        """A player's loss on what `loss` just made; None while it is not in play."""

    def before_step(self, step: int, progress: float) -> None:
        """`progress`: the used fraction of the budget."""

    def after_step(self, step: int) -> None: ...

    def validate(self) -> Figures: ...

    def pictures(self) -> dict[str, Tensor]:
        """Pictures (N 3 H W) and clips (T 3 H W, names ending in `_clip`) in [-1, 1]."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Trainer:
    """Runs a stage. On disk: `step-*.pt`, `log.jsonl`, TensorBoard events, `stopped-*.pt`."""

    def __init__(self, stage: Stage, config: LoopConfig, ranks: Ranks | None = None) -> None:
        self.stage, self.config, self.ranks = stage, config, ranks or Ranks()
        check_batch(config, self.ranks)
        model = stage.model.to(self.ranks.device)
        blocks = stage.blocks()
        self.net = wrap(model, self.ranks, config.parallel, blocks, unused=stage.unused)
        self.parts = {"model": Part(model, make_optimizer(model, config))}
        self.player_nets: dict[str, nn.Module] = {}
        for name, player in stage.players.items():
            player.model.to(self.ranks.device)
            self.player_nets[name] = wrap(player.model, self.ranks, "ddp", [])
            optimizer = player.optimizer or make_optimizer(player.model, config)
            scheduled = player.optimizer is None
            self.parts[name] = Part(player.model, optimizer, scheduled=scheduled)
        self.batches = Prefetch(stage.batch, self.ranks, config.accumulate)
        self.ema = self.trained_tensors() if config.ema_decay is not None else None
        self.step, self.spent_s = 0, 0.0
        self.request, self.stopping = StopRequest(), False

    # -- state ---------------------------------------------------------------------------------

    def kept_keys(self) -> list[str]:
        """Names of the model's tensors that a checkpoint holds: frozen base weights stay out."""
        model = self.parts["model"].model
        frozen = getattr(model, "frozen_keys", frozenset[str]())
        return [key for key in model.state_dict() if key not in frozen]

    def trained_tensors(self) -> dict[str, Tensor]:
        state = self.parts["model"].model.state_dict()
        return {key: state[key].detach().clone() for key in self.kept_keys()}

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs, as full tensors on the CPU. All ranks must call."""
        model = self.parts["model"].model.state_dict()
        kept = {key: whole(model[key]) for key in self.kept_keys()}
        return {
            "identity": self.stage.identity(),
            "step": self.step,
            "spent_s": self.spent_s,
            "model": kept,
            "ema": None if self.ema is None else map_tensors(self.ema, whole),
            "stage": map_tensors(self.stage.state_dict(), whole),
            "optimizers": {
                name: map_tensors(part.optimizer.state_dict(), whole)
                for name, part in self.parts.items()
            },
            "players": {
                name: map_tensors(player.model.state_dict(), whole)
                for name, player in self.stage.players.items()
            },
        }

    def resume(self) -> bool:
        """Goes on from the newest checkpoint, if there is one. Raises CheckpointError."""
        found = checkpoint.find(self.config.out)
        if not found:
            return False
        state = checkpoint.load(found[-1])
        with checkpoint.fitting(found[-1]):
            checkpoint.check_identity(state, self.stage.identity(), found[-1])
            players = state.get("players", {})
            if set(players) != set(self.stage.players):
                raise CheckpointError(
                    f"{found[-1]}: holds the players {sorted(players)}, this run has "
                    f"{sorted(self.stage.players)}"
                )
            self._restore(state)
        return True

    def _restore(self, state: Mapping[str, Any]) -> None:
        model = self.parts["model"].model
        own = model.state_dict()
        model.load_state_dict(
            {**own, **{key: like(value, own[key]) for key, value in state["model"].items()}}
        )
        if self.ema is not None and state["ema"] is not None:
            self.ema = {key: like(value, own[key]) for key, value in state["ema"].items()}
        for name, player in self.stage.players.items():
            player.model.load_state_dict(state["players"][name])
        for name, part in self.parts.items():
            self.load_optimizer(part.optimizer, state["optimizers"][name])
        self.stage.load_state_dict(state["stage"])
        self.step, self.spent_s = state["step"], state["spent_s"]

    @staticmethod
    def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
        if isinstance(optimizer, MuonAdamW):
            for index, part in enumerate(optimizer.parts):
                load_optimizer(part, state[str(index)])
        else:
            load_optimizer(optimizer, state)

    def save(self, report: Report) -> OSError | None:
        """Writes a checkpoint; a disk that does not take it is reported, and training goes on."""
        state = self.state()
        if not self.ranks.leads:
            return None
        try:
            checkpoint.write(self.config.out, self.step, state, self.config.keep)
        except OSError as error:
            last = [path.name for path in checkpoint.find(self.config.out)[-1:]]
            report.warn(
                f"step {self.step}: checkpoint not written: {error}; the last one is "
                f"{last[0] if last else 'none'}; training goes on"
            )
            return error
        return None

    # -- schedule ------------------------------------------------------------------------------

    def progress(self) -> float:
        """Share of the budget that is used, by steps or by time, whichever is further."""
        by_steps = self.step / self.config.steps
        if self.config.minutes is None:
            return by_steps
        return max(by_steps, self.spent_s / (60.0 * self.config.minutes))

    def set_rates(self) -> float:
        rate = learning_rate(self.config, self.step, self.progress())
        for part in self.parts.values():
            if part.scheduled:
                for group in part.optimizer.param_groups:
                    group["lr"] = rate
        return rate

    # -- steps ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Trains to the end of the budget. Raises Diverged, Unavailable; KeyboardInterrupt, with
        the step saved, where a signal asked it to stop.
        """
        c = self.config
        failed: OSError | None = None
        begun = Report(c, self.ranks.leads, self.step, self.progress())
        with begun as report, self.request, self.batches:
            while self.progress() < 1.0 and not self.stopping:
                rate, figures = self.set_rates(), self.one_step()
                report.advance(self.step, self.progress())
                if self.step % c.log_every == 0:
                    report.log(self.step, self.spent_s, {"lr": rate, **self.averaged(figures)})
                done = self.progress() >= 1.0
                if self.step % c.save_every == 0 or done or self.stopping:
                    failed = self.save(report)
                    if done or not self.stopping:
                        self.validate(report)
        if failed is not None:
            raise Unavailable(f"the last checkpoint could not be written to {c.out}: {failed}")
        if self.progress() < 1.0:
            raise KeyboardInterrupt(f"step {self.step} is saved")

    def one_step(self) -> dict[str, Any]:
        start = time.perf_counter()
        c = self.config
        torch.manual_seed(hash((c.seed, self.step, self.ranks.rank)) % (1 << 62))
        self.stage.before_step(self.step, self.progress())
        for part in self.parts.values():
            part.optimizer.zero_grad(set_to_none=True)
        playing: set[str] = set()
        figures: dict[str, Any] = {}
        for micro in range(c.accumulate):
            figures, played = self.accumulate(micro)
            playing |= played
        self.update("model", figures)
        for name in self.stage.players:
            if name in playing:
                self.update(name, figures)
        self.step += 1
        self.update_ema()
        self.stage.after_step(self.step)
        spent = self.spent_s + time.perf_counter() - start
        # Whoever is asked to stop stops all, at the same step.
        asked = float(self.request.asked)
        self.spent_s, share = mean_over_ranks([spent, asked], self.ranks.device)
        self.stopping = share > 0.0
        return figures

    def accumulate(self, micro: int) -> tuple[dict[str, Any], set[str]]:
        """Gradients of one micro-batch, the players' after the model's; its figures and who
        played."""
        c, stage = self.config, self.stage
        last = micro == c.accumulate - 1
        batch = self.batches.get(self.step, micro)
        with synchronised(self.net, last):
            with self.autocast():
                value, figures = stage.loss(self.net, batch)
            self.check_finite(value, batch, figures)
            (value / c.accumulate).backward()
        figures["loss"] = value.detach()
        played: set[str] = set()
        for name, net in self.player_nets.items():
            with synchronised(net, last):
                with self.autocast():
                    value_of_player = stage.player_loss(name, net)
                if value_of_player is None:
                    continue
                (value_of_player / c.accumulate).backward()
            figures[f"{name}_loss"] = value_of_player.detach()
            played.add(name)
        return figures, played

    def autocast(self) -> torch.autocast:
        on = self.config.precision == "bf16"
        return torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=on)

    def check_finite(
        self, value: Tensor, batch: tuple[Tensor, ...], figures: Mapping[str, Any]
    ) -> None:
        """Stops all ranks where one has a loss that is not finite; that one saves its batch."""
        finite = bool(torch.isfinite(value))
        (share,) = mean_over_ranks([float(finite)], self.ranks.device)
        if share == 1.0:
            return
        path = self.config.out / f"stopped-step{self.step}-rank{self.ranks.rank}.pt"
        if not finite:
            state = {"step": self.step, "batch": map_tensors(list(batch), whole)}
            torch.save({**state, "figures": map_tensors(dict(figures), whole)}, path)
        where = f"the batch is in {path}" if not finite else "on another rank"
        raise Diverged(
            f"step {self.step}: loss is {value.item()} ({where}); the last checkpoint "
            "stays, go on from it with a lower learning rate or another seed"
        )

    def update(self, name: str, figures: dict[str, Any]) -> None:
        part, c = self.parts[name], self.config
        if c.clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(part.model.parameters(), c.clip_norm)
            figures["grad_norm" if name == "model" else f"{name}_grad_norm"] = whole(norm)
        part.optimizer.step()

    @torch.no_grad()
    def update_ema(self) -> None:
        """Exponential moving average, with the usual early-step correction."""
        if self.ema is None or self.config.ema_decay is None:
            return
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        state = self.parts["model"].model.state_dict()
        for key, value in self.ema.items():
            value.lerp_(state[key], 1.0 if key in self.stage.replaced else 1.0 - decay)
        self.stage.replaced.clear()

    # -- reports -------------------------------------------------------------------------------

    def averaged(self, figures: Mapping[str, Any]) -> Figures:
        names = sorted(figures)
        values = mean_over_ranks([float(figures[n]) for n in names], self.ranks.device)
        return dict(zip(names, values, strict=True))

    def validate(self, report: Report) -> None:
        """Held-out figures and pictures of the averaged weights (without EMA: the trained ones).

        All ranks compute them, so that a sharded model can.
        """
        with self.averaged_weights(), torch.no_grad():
            figures = {f"val_{key}": value for key, value in self.stage.validate().items()}
            pictures = self.stage.pictures() if self.config.tensorboard else {}
        report.log(self.step, self.spent_s, figures)
        report.pictures(self.step, pictures)

    @contextmanager
    def averaged_weights(self) -> Any:
        model = self.parts["model"].model
        model.eval()
        trained = self.trained_tensors() if self.ema is not None else {}
        try:
            if self.ema is not None:
                self.put(self.ema)
            yield
        finally:
            self.put(trained)
            model.train()

    @torch.no_grad()
    def put(self, tensors: Mapping[str, Tensor]) -> None:
        state = self.parts["model"].model.state_dict()
        for key, value in tensors.items():
            state[key].copy_(value)
