"""The draws that strategies ask for, made by the world model as it is.

`TorchPasses` is the reference implementation of `onnx_pass.OnnxPasses` and of the static loop.

Legend: S ids of a pass, R rows that are drawn, D hidden, V codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from sim_stream.decoding.sampling import sample
from sim_stream.decoding.strategy import Draw
from sim_stream.models.kv_cache import ScatteredWrites
from sim_stream.models.world_model import WorldModel


class Passes(Protocol):
    """What runs draws, of any number of sessions, at the same time where it can."""

    def run(self, draws: Sequence[Draw]) -> list[Tensor]:
        """The ids (R,) of every draw; what a draw fed has entered its cache."""
        ...


class TorchPasses:
    """One pass of the model for every draw."""

    def __init__(self, model: WorldModel, num_codes: int) -> None:
        self.model, self.num_codes = model, num_codes

    def run(self, draws: Sequence[Draw]) -> list[Tensor]:
        return [sample(self.logits(draw), draw.noise_RV, draw.sampling) for draw in draws]

    def logits(self, draw: Draw) -> Tensor:
        """Logits (R V) of a draw."""
        if draw.positions is None:
            hidden_1SD = self.model(draw.ids_1S, None, draw.cache)
        else:
            positions = draw.positions
            writes = ScatteredWrites(draw.cache, positions.slots_S, positions.seen_ST)
            hidden_1SD = self.model.forward_at(draw.ids_1S, writes, draw.cache.capacity)
        return self.model.vision_logits(hidden_1SD[0, -len(draw.noise_RV) :], self.num_codes)
