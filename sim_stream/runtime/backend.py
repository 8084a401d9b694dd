"""What runs engines that were built ahead of time: a backend, by the name in their manifests.

Declared without importing the backend or torch, so that it can be listed where neither is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim_stream.runtime.engine import Engine
    from sim_stream.runtime.engine_manifest import EngineManifest, Host


@dataclass(frozen=True, kw_only=True)
class Backend:
    """`name`: of its distribution, too; `module`: what that is imported as; `get`: how to get it.

    `providers`: what its engines can run on, the default first; all but `cpu` need a GPU.
    `suffix`: of an engine's file; None: it runs the graph's own files.
    `version`: of what is installed here; None: nothing is.
    `load`: an engine, from its file, that was already checked. Raises EngineError, Unavailable.
    `numbers`: build options that are whole numbers, and the providers that load no engine without.
    """

    name: str
    module: str
    get: str
    providers: tuple[str, ...]
    suffix: str | None
    version: Callable[[], str | None]
    load: Callable[[Path, EngineManifest, Host], Engine]
    numbers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def needs_gpu(self) -> bool:
        return "cpu" not in self.providers

    @property
    def how_to_get(self) -> str:
        return f"{self.get}; needs an NVIDIA GPU" if self.needs_gpu else self.get
