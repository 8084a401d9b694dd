"""What builds engines, by the names of their backends (`sim_stream.runtime.backends`)."""

from __future__ import annotations

from engines.builder import Builder
from engines.by_onnxruntime import BY_ONNX_RUNTIME
from engines.by_tensorrt import BY_TENSORRT
from engines.by_torch_tensorrt import BY_TORCH_TENSORRT

BUILDERS: dict[str, Builder] = {
    builder.backend.name: builder for builder in (BY_ONNX_RUNTIME, BY_TENSORRT, BY_TORCH_TENSORRT)
}
