"""A source: part of a model in somebody's format, as our keys. What every reader gives.

Shapes are known before any tensor is read, so that everything that does not match is named at once
and first. Tensors come one by one, transformed into our layout, in any order, each exactly once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from sim_stream.config import Preset
from sim_stream.errors import CheckpointError

Shape = tuple[int, ...]
Tensors = Iterator[tuple[str, Tensor]]

# Trained weights of these networks stay below a hundred; a flipped exponent bit gives 1e38.
LARGEST_WEIGHT = 1e4
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
NAMED_FAULTS = 50  # a message about the wrong model altogether stays readable


@dataclass(frozen=True, kw_only=True)
class Source:
    """`stream(preset)` gives the tensors of `shapes`; `unknown` are keys that mean nothing to us.

    `facts`: what the source says of itself and our model must agree with (rope, norm_eps, ...).
    `transforms`: what `stream` does to the stored values, for the manifest.
    """

    kind: str
    part: str
    path: Path
    files: tuple[Path, ...]
    shapes: Mapping[str, Shape]
    dtypes: Mapping[str, int]
    stream: Callable[[Preset], Tensors]
    facts: Mapping[str, object] = field(default_factory=dict)
    transforms: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        return sum(torch.Size(shape).numel() for shape in self.shapes.values())

    def tensors(self, preset: Preset) -> Tensors:
        """The stream with its values checked. Raises CheckpointError."""
        for key, tensor in self.stream(preset):
            check_values(tensor, f"{self.path}: {key}")
            yield key, tensor


def check_values(tensor: Tensor, where: str) -> None:
    """Raises CheckpointError where there is no value, or one that is no number or larger than any
    trained weight."""
    if tensor.dtype not in FLOATS:
        raise CheckpointError(f"{where} is {tensor.dtype}, expected fp32, bf16 or fp16")
    if not tensor.numel():
        raise CheckpointError(
            f"{where} is empty, of shape {tuple(tensor.shape)}: saved by a process that did not "
            "hold it (ZeRO-3 and the like)"
        )
    low, high = (float(bound) for bound in tensor.aminmax())
    if not (low >= -LARGEST_WEIGHT and high <= LARGEST_WEIGHT):
        raise CheckpointError(
            f"{where} has values from {low:g} to {high:g}; trained weights are finite and below "
            f"{LARGEST_WEIGHT:g}: the file is damaged"
        )


def mismatches(sources: Sequence[Source], expected: Mapping[str, Shape]) -> list[str]:
    """Every missing, extra, misshapen and doubled tensor of one part's sources together."""
    times = Counter(key for source in sources for key in source.shapes)
    faults = [f"unknown {key} in {source.path}" for source in sources for key in source.unknown]
    faults += [f"{key} comes {n} times" for key, n in times.items() if n > 1]
    faults += [f"missing {key} {shape}" for key, shape in expected.items() if key not in times]
    for source in sources:
        for key, shape in source.shapes.items():
            if key not in expected:
                faults.append(f"extra {key} {shape}")
            elif shape != expected[key]:
                faults.append(f"{key} has shape {shape}, expected {expected[key]}")
    return faults


def refuse(name: str, faults: Sequence[str]) -> None:
    """Raises CheckpointError with all faults, if there are any."""
    if faults:
        number = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise CheckpointError(f"{name}: {number}: {listed(faults)}")


def listed(faults: Sequence[str]) -> str:
    more = len(faults) - NAMED_FAULTS
    return "; ".join(faults[:NAMED_FAULTS]) + (f"; and {more} more" if more > 0 else "")


def count_dtypes(dtypes: Iterable[torch.dtype | str]) -> dict[str, int]:
    """Tensors of each type, most first: {'bfloat16': 291}."""
    names = (str(dtype).removeprefix("torch.") for dtype in dtypes)
    return dict(Counter(names).most_common())


def disagreements(source: Source, config: object) -> list[str]:
    """Facts of a source that a configuration says otherwise."""
    return [
        f"{name} is {value} in {source.path}, {getattr(config, name)} in the preset"
        for name, value in source.facts.items()
        if hasattr(config, name) and getattr(config, name) != value
    ]
