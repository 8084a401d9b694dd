"""What ``sim-stream bench`` takes. A value that cannot be is refused here, before anything runs."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim_stream.errors import InvalidInput
from sim_stream.model_options import ModelOptions

FREE = "free"  # the pace that runs as fast as it goes
QUICK_FRAMES, QUICK_WARM_UP = 20, 4


@dataclass(frozen=True, kw_only=True)
class BenchOptions(ModelOptions):
    """``paces``: steps a second and the word ``free``, comma-separated; ``out`` None: a new one.

    ``model``: MODULE:CALLABLE that gives a ``StreamModel``, instead of a preset.
    """

    model: str | None = None
    random_weights: bool = False
    paces: str = "4,8,12,free"
    frames: int = 100
    warm_up: int = 8
    seed: int = 0
    out: Path | None = None
    html: bool = True
    as_json: bool = False

    @classmethod
    def quick(cls, **given: Any) -> BenchOptions:
        return cls(**{"frames": QUICK_FRAMES, "warm_up": QUICK_WARM_UP} | given)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.pace_list()
        for name, least in (("frames", 2), ("warm_up", 0), ("seed", 0)):
            value = getattr(self, name)
            if value < least:
                raise InvalidInput(name, value, f"{least} or more")
        if self.random_weights and self.weights is not None:
            raise InvalidInput("weights", self.weights, "none beside --random-weights")
        if self.model is not None:
            self.require_default("--model")
            if self.random_weights:
                raise InvalidInput("random_weights", True, "nothing beside --model")
        if self.out is not None and self.out.exists() and not self.out.is_dir():
            raise InvalidInput("out", f"{self.out} (a file)", "a folder, or a name that is free")

    def pace_list(self) -> tuple[float | None, ...]:
        """Steps a second of each run, in order; None: as fast as it goes."""
        paces = tuple(_pace(word.strip()) for word in self.paces.split(","))
        if len(set(paces)) < len(paces):
            raise InvalidInput("paces", self.paces, "each pace once")
        return paces

    def folder(self) -> Path:
        """Where the report goes: the same name for all calls only where one was given."""
        stamp = time.strftime("%Y%m%d-%H%M%S")
        name = self.preset if self.model is None else self.model.replace(":", "-")
        return Path("bench") / f"{name}-{stamp}" if self.out is None else self.out

    def serve_options(self) -> list[str]:
        if self.model is not None:
            return [f"--model={self.model}", "--max-sessions=1", "--log-level", self.log_level]
        options = super().serve_options()
        return [*options, "--random-weights"] if self.random_weights else options


def _pace(word: str) -> float | None:
    if word == FREE:
        return None
    allowed = f"steps a second above 0, or {FREE}"
    try:
        pace_fps = float(word)
    except ValueError as error:
        raise InvalidInput("paces", repr(word), allowed) from error
    if not 0 < pace_fps < math.inf:
        whole = pace_fps.is_integer()
        raise InvalidInput("paces", int(pace_fps) if whole else pace_fps, allowed)
    return pace_fps
