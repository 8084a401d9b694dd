"""The step graph run by ONNX Runtime on a CPU, over the very memory of our KV cache.

At one id a pass a small model spends its time between operations. ONNX Runtime runs the whole step,
sampler included, as some thirty fused kernels; `FullPass` is the slow twin.

Legend: S ids of a pass, R rows that are drawn, V codes.
"""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor

from sim_stream.config import SamplingConfig
from sim_stream.decoding.step_graph import step_graph
from sim_stream.models.kv_cache import KVCache
from sim_stream.models.world_model import WorldModel


class OnnxStep:
    """A world model's step, loaded once and shared by all sessions and threads."""

    def __init__(
        self, model: WorldModel, num_codes: int, capacity: int, *, threads: int = 1
    ) -> None:
        """`model`: fused, fp32, on the CPU. `threads`: of one pass; 1 runs on the caller's own."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Threads that spin between passes would take the video decoder's core.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        graph = step_graph(model, num_codes, capacity).SerializeToString()
        self.session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


class OnnxPass:
    """Draws the ids that follow some ids, which enter the cache. One owner at a time."""

    def __init__(self, step: OnnxStep, cache: KVCache) -> None:
        self.cache, self._session = cache, step.session
        self._binding = step.session.io_binding()
        # Read by the session at every run; written here in place.
        self._last, self._total = np.zeros(1, np.int32), np.zeros((), np.int32)
        self._top_k, self._scale = np.zeros(1, np.int64), np.zeros((), np.float32)
        for name in ("last", "total", "top_k", "scale"):
            array = getattr(self, f"_{name}")
            self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for index, (_, keys, values) in enumerate(cache.layers):
            for name, part in ((f"keys.{index}", keys), (f"values.{index}", values)):
                place = ("cpu", 0, np.float32, tuple(part.shape), part.data_ptr())
                self._binding.bind_input(name, *place)
                self._binding.bind_output(f"{name}.out", *place)

    def draw(self, ids_1S: Tensor, noise_RV: Tensor, sampling: SamplingConfig) -> Tensor:
        """Ids (R,) that follow the last R of `ids_1S`."""
        self.cache.check_room(ids_1S.shape[1])
        rows, codes = noise_RV.shape
        drawn_R = torch.empty(rows, dtype=torch.int64)
        noise_RV, ids_1S = noise_RV.contiguous(), ids_1S.contiguous()
        self._total[()] = self.cache.length + ids_1S.shape[1]
        self._last[0] = self._total - 1
        self._top_k[0] = min(sampling.top_k, codes)
        self._scale[()] = 1.0 / sampling.temperature
        bind = self._binding
        bind.bind_input("ids", "cpu", 0, np.int64, (1, ids_1S.shape[1]), ids_1S.data_ptr())
        bind.bind_input("noise", "cpu", 0, np.float32, (1, rows, codes), noise_RV.data_ptr())
        bind.bind_output("drawn", "cpu", 0, np.int64, (1, rows, 1), drawn_R.data_ptr())
        self._session.run_with_iobinding(bind)
        self.cache.advance(ids_1S.shape[1])
        return drawn_R
