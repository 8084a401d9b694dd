"""LoRA adapters over a WorldModel: W + s B A, attached, merged, taken off again (models.md part 4).

Attached, every adapted weight is computed from base and adapter when it is used (a
parametrisation), so that merged and unmerged are the same numbers and taking it off gives the base
back bit for bit. Fused projections bypass the weights, so a model is adapted before it is fused.
Knows no files: `formats/peft_adapter.py` makes an `Adapter`.

Legend: O out, I in, R rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sim_stream.errors import CheckpointError
from sim_stream.models.formats.source import Shape, refuse

Stream = Iterator[tuple[str, Tensor]]


@dataclass(frozen=True, kw_only=True, eq=False)
class LowRank:
    """Adds `scale` B A to a weight (O I)."""

    a_RI: Tensor
    b_OR: Tensor
    scale: float

    @property
    def shape(self) -> Shape:
        return len(self.b_OR), self.a_RI.shape[1]

    @property
    def parameters(self) -> int:
        return self.a_RI.numel() + self.b_OR.numel()

    def applied(self, weight_OI: Tensor) -> Tensor:
        """In fp32, rounded once to the weight's type."""
        a, b = (w.to(weight_OI.device, torch.float32) for w in (self.a_RI, self.b_OR))
        return torch.addmm(weight_OI.float(), b, a, alpha=self.scale).to(weight_OI.dtype)


@dataclass(frozen=True, kw_only=True, eq=False)
class Whole:
    """Takes the place of a weight: norms are trained whole."""

    weight: Tensor

    @property
    def shape(self) -> Shape:
        return tuple(self.weight.shape)

    @property
    def parameters(self) -> int:
        return self.weight.numel()

    def applied(self, weight: Tensor) -> Tensor:
        return self.weight.to(weight)


@dataclass(frozen=True, kw_only=True, eq=False)
class Adapter:
    """`updates` by our keys. `base_sha256`: the weights it was trained on; empty: not known.

    `copies`: weights of its base that came with it, which the base must have.
    """

    updates: Mapping[str, LowRank | Whole]
    name: str
    sha256: str = ""
    base_sha256: str = ""
    copies: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        return sum(update.parameters for update in self.updates.values())

    def check(self, shapes: Mapping[str, Shape]) -> None:
        """Raises CheckpointError, naming all that do not fit the base of these shapes."""
        faults = []
        for key, update in self.updates.items():
            if key not in shapes:
                faults.append(f"the base has no {key}")
            elif update.shape != shapes[key]:
                faults.append(f"{key} is {shapes[key]} in the base, {update.shape} here")
        refuse(f"adapter {self.name}", faults)

    def check_copy(self, key: str, weight: Tensor) -> None:
        """Raises CheckpointError where a base's weight is not the one that the adapter knows."""
        copy = self.copies.get(key)
        # Either may have been rounded to bf16, which keeps 8 bits.
        if copy is not None and not torch.allclose(weight.float(), copy.float(), 2**-7, 1e-6):
            raise CheckpointError(
                f"adapter {self.name} was trained on another base: {key} differs from its copy"
            )

    def merged(self, tensors: Stream, shapes: Mapping[str, Shape]) -> Stream:
        """A base's tensors on their way, each with its update. Raises CheckpointError."""
        self.check(shapes)
        for key, tensor in tensors:
            self.check_copy(key, tensor)
            yield key, self.updates[key].applied(tensor) if key in self.updates else tensor
