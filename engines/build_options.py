"""What `build` is asked for. Needs neither torch nor any backend."""

from __future__ import annotations

from dataclasses import dataclass

from sim_stream.errors import InvalidInput
from sim_stream.runtime.backends import BACKENDS


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """`provider` None: the backend's first; `workspace_bytes`, `optimization_level`: TensorRT's."""

    backend: str = next(iter(BACKENDS))
    provider: str | None = None
    workspace_bytes: int = 4 << 30
    optimization_level: int = 3

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise InvalidInput("backend", self.backend, ", ".join(BACKENDS))
        if self.runs_on not in BACKENDS[self.backend].providers:
            allowed = f"{', '.join(BACKENDS[self.backend].providers)} for {self.backend}"
            raise InvalidInput("provider", self.provider, allowed)
        if self.workspace_bytes < 1 << 20:
            raise InvalidInput("workspace_bytes", self.workspace_bytes, "2^20 bytes or more")
        if not 0 <= self.optimization_level <= 5:
            raise InvalidInput("optimization_level", self.optimization_level, "0..5")

    @property
    def runs_on(self) -> str:
        """The provider."""
        return BACKENDS[self.backend].providers[0] if self.provider is None else self.provider

    @property
    def needs_cuda(self) -> bool:
        return self.runs_on != "cpu"
