"""Every decoding strategy by its name, the default one first.

A new one is a file beside the others, which declares its kind, and an entry here.
"""

from __future__ import annotations

from sim_stream.decoding.diagonal import DIAGONAL
from sim_stream.decoding.jacobi import JACOBI
from sim_stream.decoding.kind import StrategyKind
from sim_stream.decoding.raster import RASTER

STRATEGIES: dict[str, StrategyKind] = {kind.name: kind for kind in (RASTER, JACOBI, DIAGONAL)}

# Of the options, by their names; strategies that share an option share its default.
DEFAULTS = {kind.option.name: kind.option.default for kind in STRATEGIES.values() if kind.option}
