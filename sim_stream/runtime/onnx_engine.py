"""Engines run by ONNX Runtime on its CPU, CUDA or TensorRT execution provider.

Input and output are bound to the caller's memory, on the CPU and on a GPU, so nothing is copied.

Legend: B batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sim_stream.errors import EngineError, InvalidInput, Unavailable
from sim_stream.onnx_runtime import onnxruntime as ort
from sim_stream.runtime.engine_manifest import GraphManifest
from sim_stream.runtime.onnx_backend import PROVIDERS


class OnnxEngine:
    """Any thread may call `run`: the session is read-only, each call binds its own memory."""

    def __init__(
        self,
        path: Path,
        graph: GraphManifest,
        *,
        provider: str = "cpu",
        threads: int = 1,
        profile_to: Path | None = None,
        provider_options: Mapping[str, str] | None = None,
    ) -> None:
        """`profile_to`: prefix of a JSON trace of every operator. Raises Unavailable, EngineError.

        `provider_options`: of the TensorRT provider, e.g. where it keeps its plans.
        """
        refuse_missing(provider)
        self._takes, self._gives = graph.input, graph.output
        self._stream = None if provider == "cpu" else torch.cuda.Stream()
        options = _session_options(threads, profile_to)
        chosen = [(PROVIDERS[provider], self._provider_options(provider_options or {}))]
        try:
            self.session = ort.InferenceSession(str(path), options, providers=chosen)
        except Exception as error:  # its own exceptions share no other base
            raise EngineError(f"{path}: ONNX Runtime cannot load it: {error}") from error
        if self.session.get_providers()[0] != PROVIDERS[provider]:
            raise Unavailable(f"ONNX Runtime's {PROVIDERS[provider]} did not start on this machine")

    def _provider_options(self, options: Mapping[str, str]) -> dict[str, Any]:
        if self._stream is None:
            return dict(options)
        return {**options, "user_compute_stream": str(self._stream.cuda_stream)}

    def run(self, x: Tensor) -> Tensor:
        """See `Engine.run`."""
        x = x.contiguous()
        dtype = getattr(torch, self._gives.dtype)
        y = torch.empty((len(x), *self._gives.shape), dtype=dtype, device=x.device)
        binding = self.session.io_binding()
        binding.bind_input(self._takes.name, *_place(x, self._takes.dtype))
        binding.bind_output(self._gives.name, *_place(y, self._gives.dtype))
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream())
        self.session.run_with_iobinding(binding)  # returns when the device is done
        return y


def tensorrt_options(folder: Path, graph: GraphManifest, workspace_bytes: int) -> dict[str, str]:
    """Of the TensorRT provider: batches of 1..max_batch, plans and timings kept in `folder`."""
    shape = "x".join(str(size) for size in graph.input.shape)
    batches = {"min": 1, "opt": 1, "max": graph.max_batch}
    profile = {
        f"trt_profile_{key}_shapes": f"{graph.input.name}:{batch}x{shape}"
        for key, batch in batches.items()
    }
    return profile | {
        "trt_max_workspace_size": str(workspace_bytes),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
    }


def _session_options(threads: int, profile_to: Path | None) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin between frames would take the world model's core.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if profile_to is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_to)
    return options


def _place(x: Tensor, dtype: str) -> tuple[str, int, type, tuple[int, ...], int]:
    """Where a tensor lies, as `bind_input` and `bind_output` take it."""
    return (x.device.type, x.device.index or 0, np.dtype(dtype).type, tuple(x.shape), x.data_ptr())


def refuse_missing(provider: str) -> None:
    """Raises InvalidInput, Unavailable where this build of ONNX Runtime lacks a provider."""
    if provider not in PROVIDERS:
        raise InvalidInput("provider", provider, ", ".join(PROVIDERS))
    there = ort.get_available_providers()
    if PROVIDERS[provider] not in there:
        raise Unavailable(
            f"ONNX Runtime {ort.__version__} has no {PROVIDERS[provider]} here (only "
            f"{', '.join(there)}); onnxruntime-gpu has it"
        )
