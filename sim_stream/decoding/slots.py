"""Frames in the making, side by side: every round gives each of them one pass.

A slot is one session's frame. It joins and leaves whenever it likes; what it gives does not depend
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
class Slot:
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
class Slots:
    """`begin` adds a frame, `advance` gives every frame in the making one pass."""

    passes: Passes
    active: list[Slot] = field(default_factory=list)

    @torch.inference_mode()
    def begin(self, strategy: Strategy, task: Task) -> Slot:
        draws = strategy.decode(task)
        slot = Slot(draws, next(draws))
        self.active.append(slot)
        return slot

    @torch.inference_mode()
    def advance(self) -> None:
        """A pass that fails ends all slots that were in it, with its error; a strategy that fails
        ends its own."""
        try:
            drawn = self.passes.run([slot.wanted for slot in self.active])
        except Exception as error:
            for slot in self.active:
                slot.error = error
        else:
            for slot, drawn_R in zip(self.active, drawn, strict=True):
                slot.give(drawn_R)
        self.active = [slot for slot in self.active if not slot.done]

    def drop(self, slot: Slot) -> None:
        """Ends a frame whose session is gone."""
        if slot in self.active:
            self.active.remove(slot)


def decode(strategy: Strategy, task: Task, passes: Passes) -> Decoded:
    """One frame alone, from start to end."""
    slots = Slots(passes)
    slot = slots.begin(strategy, task)
    while not slot.done:
        slots.advance()
    if slot.error is not None:
        raise slot.error
    assert slot.decoded is not None
    return slot.decoded
