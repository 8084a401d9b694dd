"""What a fault is, what it needs while it runs, and how it ended.

Knows no particular fault and prints nothing.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self, TypeVar

from sim_stream.errors import SimStreamError, Unavailable
from tests.faults.processes import Violated

T = TypeVar("T")
State = Literal["survived", "failed", "not run"]
Figures = Mapping[str, str]


class Stage(ExitStack):
    """Owns what a fault starts and ends it all, the last first, however the fault ends."""

    def __init__(self, seed: int, cases: int | None = None) -> None:
        """`cases`: of each kind of random file; None: as many as the fault itself says."""
        super().__init__()
        self.seed, self.cases = seed, cases
        self.random = random.Random(seed)

    def __enter__(self) -> Self:
        super().__enter__()
        folder = tempfile.TemporaryDirectory(prefix="sim-stream-faults-")
        self.folder = Path(self.enter_context(folder))
        return self

    def start(self, process: AbstractContextManager[T]) -> T:
        return self.enter_context(process)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """``holds``: what must hold while and after it happens.

    ``run`` gives its figures and raises Violated when it did not hold, Unavailable where this
    machine cannot do it.
    """

    name: str
    holds: str
    run: Callable[[Stage], Figures]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """``why`` is empty after a fault that was survived."""

    name: str
    holds: str
    state: State
    why: str = ""
    figures: Figures = field(default_factory=dict)
    seconds: float = 0.0


def run_fault(fault: Fault, seed: int, cases: int | None = None) -> Outcome:
    """Runs it on a stage of its own."""
    start_s = time.monotonic()
    state: State = "survived"
    why, figures = "", {}
    try:
        with Stage(seed, cases) as stage:
            figures = dict(fault.run(stage))
    except Unavailable as error:
        state, why = "not run", str(error)
    except (Violated, SimStreamError, OSError, AssertionError) as error:
        state, why = "failed", str(error) or type(error).__name__
    return Outcome(
        name=fault.name,
        holds=fault.holds,
        state=state,
        why=why,
        figures=figures,
        seconds=time.monotonic() - start_s,
    )
