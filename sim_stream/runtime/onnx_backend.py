"""ONNX Runtime as a backend: it runs the graphs themselves, by one of its execution providers."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sim_stream.runtime.backend import Backend

if TYPE_CHECKING:
    from sim_stream.runtime.engine import Engine
    from sim_stream.runtime.engine_manifest import EngineManifest, Host

# Its own names of what engines can run on.
PROVIDERS: Mapping[str, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


def version() -> str | None:
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    from sim_stream.onnx_runtime import onnxruntime

    return str(onnxruntime.__version__)


def load(path: Path, manifest: EngineManifest, host: Host) -> Engine:
    from sim_stream.runtime.onnx_engine import OnnxEngine, tensorrt_options

    graph, options = manifest.graph, {}
    if manifest.provider == "tensorrt":
        options = tensorrt_options(path.parent, graph, manifest.build["workspace_bytes"])
    return OnnxEngine(
        path, graph, provider=manifest.provider, threads=host.threads, provider_options=options
    )


ONNX_RUNTIME = Backend(
    name="onnxruntime",
    module="onnxruntime",
    get="make setup",
    providers=tuple(PROVIDERS),
    suffix=None,
    version=version,
    load=load,
    numbers={"workspace_bytes": ("tensorrt",)},
)
