"""Every backend by its name. A new one is a file beside these and an entry here; what builds its
engines is another in `engines.builders`."""

from __future__ import annotations

from sim_stream.runtime.backend import Backend
from sim_stream.runtime.onnx_backend import ONNX_RUNTIME
from sim_stream.runtime.tensorrt_backend import TENSORRT
from sim_stream.runtime.torch_tensorrt_backend import TORCH_TENSORRT

BACKENDS: dict[str, Backend] = {
    backend.name: backend for backend in (ONNX_RUNTIME, TENSORRT, TORCH_TENSORRT)
}
