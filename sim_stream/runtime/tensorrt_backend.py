"""TensorRT as a backend: it runs plans, each built for one GPU model and one version."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from sim_stream.runtime.backend import Backend

if TYPE_CHECKING:
    from sim_stream.runtime.engine import Engine
    from sim_stream.runtime.engine_manifest import EngineManifest, Host


def version() -> str | None:
    if importlib.util.find_spec("tensorrt") is None:
        return None
    # Asked of the module: the distribution's name differs with the CUDA version.
    return str(importlib.import_module("tensorrt").__version__)


def load(path: Path, manifest: EngineManifest, host: Host) -> Engine:
    from sim_stream.runtime.tensorrt_engine import TensorRTEngine

    return TensorRTEngine(path, manifest.graph)


TENSORRT = Backend(
    name="tensorrt",
    module="tensorrt",
    get="pip install '.[engines,tensorrt]' in the clone",
    providers=("cuda",),
    suffix=".plan",
    version=version,
    load=load,
)
