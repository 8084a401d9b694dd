"""What is known of a decoding strategy before it runs: its name, its option, what it can do.

Configurations are checked with it, in clients too: neither this module nor those that declare a
kind bring torch when they are imported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim_stream.config import DecodingConfig
    from sim_stream.decoding.strategy import Strategy

Grid = tuple[int, int]  # rows and columns of a frame's codes


@dataclass(frozen=True, kw_only=True)
class CountOption:
    """A number of codes, 1 to `most` of a frame's grid. `name`: its field of `DecodingConfig`."""

    name: str
    default: int
    most: Callable[[Grid], int]


@dataclass(frozen=True, kw_only=True)
class StrategyKind:
    """`exact`: gives raster's codes. `takes_deadline`: has a guess of the whole frame after every
    pass, which can leave when time is up.

    `drawn`: codes that a pass draws, one after the other from the first that is not certain; so the
    static passes can run it. None: it draws in an order of its own, and they cannot.
    """

    name: str
    about: str
    make: Callable[[DecodingConfig, Grid], Strategy]
    option: CountOption | None = None
    exact: bool
    takes_deadline: bool = False
    drawn: Callable[[DecodingConfig], int] | None = None

    @property
    def usage(self) -> str:
        """How it is written as text, as `DecodingConfig.parse` reads it."""
        return self.name if self.option is None else f"{self.name}[:{self.option.name.upper()}]"
