"""torch-tensorrt as a backend: it runs programs that were compiled ahead of time."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from sim_stream.runtime.backend import Backend

if TYPE_CHECKING:
    from sim_stream.runtime.engine import Engine
    from sim_stream.runtime.engine_manifest import EngineManifest, Host


def version() -> str | None:
    """Of the distribution: importing it beside CPU torch raises a bare Exception."""
    try:
        return metadata.version("torch-tensorrt")
    except metadata.PackageNotFoundError:
        return None


def load(path: Path, manifest: EngineManifest, host: Host) -> Engine:
    from sim_stream.runtime.torch_tensorrt_engine import TorchTensorRTEngine

    return TorchTensorRTEngine(path)


TORCH_TENSORRT = Backend(
    name="torch-tensorrt",
    module="torch_tensorrt",
    get="pip install '.[torch-tensorrt]' in the clone",
    providers=("cuda",),
    suffix=".ep",
    version=version,
    load=load,
)
