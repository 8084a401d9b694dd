"""Frames in the making, side by side: every round gives each of them one pass.

A lane is one session's frame. It joins and leaves whenever it likes; what it gives does not depend
on its neighbours. Knows no sessions and no clocks. Belongs to one thread.

Legend: R rows that are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sim_stream.decoding.passes import Passes
from sim_stream.decoding.strategy import Decoded, Draw, Draws, Strategy, Task


@dataclass(eq=False)
class Lane:
    """`decoded` or `error` is set once it is done."""

    draws: Draws
    wanted: Draw
    decoded: Decoded | None = None
    error: Exception | None = None

    @property
    def done(self) -> bool:
        return self.decoded is not None or self.error is not None

    def give(self, drawn_R: Tensor) -> None:
        try:
            self.wanted = self.draws.send(drawn_R)
        except StopIteration as stop:
            self.decoded = stop.value
        except Exception as error:
            self.error = error


@dataclass
class Lanes:
    """`begin` adds a frame, `advance` gives every frame in the making one pass."""

    passes: Passes
    active: list[Lane] = field(default_factory=list)

    @torch.inference_mode()
    def begin(self, strategy: Strategy, task: Task) -> Lane:
        draws = strategy.decode(task)
        lane = Lane(draws, next(draws))
        self.active.append(lane)
        return lane

    @torch.inference_mode()
    def advance(self) -> None:
        """A pass that fails ends all lanes that were in it, with its error; a strategy that fails
        ends its own."""
        try:
            drawn = self.passes.run([lane.wanted for lane in self.active])
        except Exception as error:
            for lane in self.active:
                lane.error = error
        else:
            for lane, drawn_R in zip(self.active, drawn, strict=True):
                lane.give(drawn_R)
        self.active = [lane for lane in self.active if not lane.done]

    def drop(self, lane: Lane) -> None:
        """Ends a frame whose session is gone."""
        if lane in self.active:
            self.active.remove(lane)


def decode(strategy: Strategy, task: Task, passes: Passes) -> Decoded:
    """One frame alone, from start to end."""
    lanes = Lanes(passes)
    lane = lanes.begin(strategy, task)
    while not lane.done:
        lanes.advance()
    if lane.error is not None:
        raise lane.error
    assert lane.decoded is not None
    return lane.decoded
