"""Engines compiled ahead of time by torch-tensorrt: an exported program with TensorRT inside.

Not yet run: torch-tensorrt cannot be imported without an NVIDIA GPU.

Legend: B batch.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from sim_stream.errors import EngineError, Unavailable


class TorchTensorRTEngine:
    """Runs on the caller's stream."""

    def __init__(self, path: Path) -> None:
        """Raises Unavailable, EngineError."""
        try:
            import torch_tensorrt  # noqa: F401  registers the operators that the program calls
        except Exception as error:  # beside CPU torch it raises a bare Exception
            raise Unavailable(f"torch-tensorrt cannot be imported: {error}") from error
        try:
            self._program = torch.export.load(path).module()
        except (OSError, RuntimeError, ValueError) as error:
            raise EngineError(f"{path}: not a program that can be loaded: {error}") from error

    @torch.inference_mode()
    def run(self, x: Tensor) -> Tensor:
        """See `Engine.run`."""
        y: Tensor = self._program(x)
        return y
