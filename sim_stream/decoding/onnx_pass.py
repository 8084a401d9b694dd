"""The step graph run by ONNX Runtime on a CPU, over the very memory of the sessions' KV caches.

At one id a pass a small model spends its time between operations. ONNX Runtime runs the whole step,
sampler included, as some thirty fused kernels; `TorchPasses` is the reference. Draws of one id
share a pass: weights are read once for all sessions. Its attention takes several ids of one session
only and no free positions, so wider draws run one after another and diagonal's go to the reference.

Legend: B rows of the pool in a pass, S ids of a pass, R rows that are drawn, V codes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sim_stream.decoding.passes import TorchPasses
from sim_stream.decoding.step_graph import step_graph
from sim_stream.decoding.strategy import Draw
from sim_stream.models.kv_cache import KVPool
from sim_stream.onnx_runtime import onnxruntime as ort


class OnnxPasses:
    """Draws over the rows of one pool. The twin's model must be fused, in fp32, on the CPU."""

    def __init__(self, twin: TorchPasses, pool: KVPool, *, threads: int = 1) -> None:
        """`threads`: of one pass; 1 runs on the caller's own."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Threads that spin between passes would take the video decoder's core.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        graph = step_graph(twin.model, twin.num_codes, pool.slots).SerializeToString()
        self.session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._twin, self._pool = twin, pool
        self._bindings: dict[tuple[int, int, int, int], _Binding] = {}

    def run(self, draws: Sequence[Draw]) -> list[Tensor]:
        """Raises InvalidInput where a draw does not fit into its cache; then none was made."""
        for draw in draws:
            draw.cache.check_room(0 if draw.positions else draw.ids_1S.shape[1])
        drawn: dict[int, Tensor] = {}
        for together in _groups(draws):
            found = self._run([draws[index] for index in together])
            drawn |= zip(together, found, strict=True)
        return [drawn[index] for index in range(len(draws))]

    def _run(self, draws: list[Draw]) -> list[Tensor]:
        if draws[0].positions is not None:
            return self._twin.run(draws)
        one = draws[0]
        form = (one.cache.row, len(draws), one.ids_1S.shape[1], len(one.noise_RV))
        if form not in self._bindings:
            codes = self._twin.num_codes
            self._bindings[form] = _Binding(self.session, self._pool, *form, codes)
        drawn = self._bindings[form].draw(draws)
        for draw in draws:
            draw.cache.advance(draw.ids_1S.shape[1])
        return drawn


def _groups(draws: Sequence[Draw]) -> list[list[int]]:
    """Which draws run together: those of one id and equal sampling on rows side by side."""
    groups: list[list[int]] = []
    for index in sorted(range(len(draws)), key=lambda index: draws[index].cache.row):
        draw, last = draws[index], draws[groups[-1][-1]] if groups else None
        if (
            last is not None
            and draw.cache.row == last.cache.row + 1
            and draw.sampling == last.sampling
            and draw.positions is None
            and last.positions is None
            and draw.ids_1S.shape[1] == last.ids_1S.shape[1] == 1
        ):
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


class _Binding:
    """One form of a pass: rows `first` to `first + batch` of the pool, `new` ids, `drawn` rows.

    The graph reads and writes the same memory at every run.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        pool: KVPool,
        first: int,
        batch: int,
        new: int,
        rows: int,
        codes: int,
    ) -> None:
        self._session, self._bound, self._codes = session, session.io_binding(), codes
        self._ids_BS = torch.zeros(batch, new, dtype=torch.int64)
        self._noise_BRV = torch.zeros(batch, rows, codes)
        self._drawn_BR1 = torch.zeros(batch, rows, 1, dtype=torch.int64)
        self._last, self._total = np.zeros(batch, np.int32), np.zeros((), np.int32)
        self._top_k, self._scale = np.zeros(1, np.int64), np.zeros((), np.float32)
        small = {name: getattr(self, f"_{name}") for name in ("last", "total", "top_k", "scale")}
        given = {"ids": self._ids_BS.numpy(), "noise": self._noise_BRV.numpy()}
        for name, array in (small | given).items():
            self._bound.bind_input(name, *_place(array))
        self._bound.bind_output("drawn", *_place(self._drawn_BR1.numpy()))
        for index, pair in enumerate(pool.layers):
            for name, part_RHTK in zip(("keys", "values"), pair, strict=True):
                place = _place(part_RHTK[first : first + batch].numpy())
                self._bound.bind_input(f"{name}.{index}", *place)
                self._bound.bind_output(f"{name}.{index}.out", *place)

    def draw(self, draws: list[Draw]) -> list[Tensor]:
        """Ids (R,) of every draw, one for every row bound."""
        sampling, new = draws[0].sampling, self._ids_BS.shape[1]
        total = 0
        for place, draw in enumerate(draws):
            self._ids_BS[place] = draw.ids_1S
            self._noise_BRV[place] = draw.noise_RV
            self._last[place] = draw.cache.length + new - 1
            total = max(total, draw.cache.length + new)
        self._total[()] = total
        self._top_k[0] = min(sampling.top_k, self._codes)
        self._scale[()] = 1.0 / sampling.temperature
        self._session.run_with_iobinding(self._bound)
        return [drawn_R1.flatten() for drawn_R1 in self._drawn_BR1.clone()]


def _place(array: np.ndarray) -> tuple[str, int, np.dtype, tuple[int, ...], int]:
    return "cpu", 0, array.dtype, array.shape, array.ctypes.data
