"""An engine by torch-tensorrt: exported by dynamo and compiled ahead of time into one program.

Not yet run: torch-tensorrt cannot be imported without an NVIDIA GPU. What it calls is held to the
signatures of torch-tensorrt's wheel (tests/engines/test_tensorrt_names.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch_tensorrt
from torch import Tensor, nn

from sim_stream.errors import EngineError
from sim_stream.runtime.engine_manifest import GraphManifest


def compile_to(
    path: Path, module: nn.Module, example: Tensor, graph: GraphManifest, options: Mapping[str, Any]
) -> None:
    """Writes the program for batches of 1..max_batch. Raises EngineError."""
    batch = torch.export.Dim("batch", min=1, max=graph.max_batch)
    program = torch.export.export(module, (example,), dynamic_shapes=({0: batch},))
    takes = torch_tensorrt.Input(
        min_shape=(1, *graph.input.shape),
        opt_shape=(1, *graph.input.shape),
        max_shape=(graph.max_batch, *graph.input.shape),
        dtype=example.dtype,
        name=graph.input.name,
    )
    try:
        compiled = torch_tensorrt.dynamo.compile(
            program,
            arg_inputs=[takes],
            workspace_size=options["workspace_bytes"],
            optimization_level=options["optimization_level"],
            require_full_compilation=True,
        )
        torch_tensorrt.save(
            compiled,
            str(path),
            output_format="exported_program",
            arg_inputs=[example],
            retrace=False,
        )
    except (RuntimeError, ValueError, AssertionError) as error:
        raise EngineError(f"{path.stem}: torch-tensorrt cannot compile it: {error}") from error
