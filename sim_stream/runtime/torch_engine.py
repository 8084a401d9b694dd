"""Engines run by PyTorch: eager, compiled, or replayed as a CUDA graph.

The eager engine is the reference implementation of every other one. Knows nothing about files.

Legend: B batch, T frames of a window, N ids of a frame, H height, W width, C = 3 colours.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

import torch
from torch import Tensor

from sim_stream.config import TORCH_ENGINES
from sim_stream.errors import InvalidInput, Unavailable
from sim_stream.models.video_decoder import VideoDecoder
from sim_stream.models.vq_model import VQModel, from_pixels, to_pixels
from sim_stream.runtime.engine import ENCODER, FORMS, MAX_BATCH, Engine, EngineSet, Form

Function = Callable[[Tensor], Tensor]
WARM_UPS = 3  # calls before a capture: kernels load, cuDNN chooses


def function_of(encoder: VQModel, video_decoder: VideoDecoder, form: Form) -> Function:
    """That form as a function of one tensor, over the models' own weights and types."""
    if form.part == ENCODER:
        dtype = encoder.encoder.conv_in.weight.dtype
        return lambda frames_BHWC: encoder.encode(from_pixels(frames_BHWC).to(dtype))
    return lambda ids_BTN: to_pixels(video_decoder(ids_BTN, form.emit))


def torch_engines(
    encoder: VQModel, video_decoder: VideoDecoder, mode: str, device: torch.device
) -> EngineSet:
    """Raises InvalidInput (mode), Unavailable (a CUDA graph without CUDA)."""
    if mode not in TORCH_ENGINES:
        raise InvalidInput("engines", mode, f"{', '.join(TORCH_ENGINES)} or a folder")
    if mode == "cuda-graph" and device.type != "cuda":
        raise Unavailable(f"engines cuda-graph were asked for, which device {device} cannot run")
    kinds: dict[str, Callable[[Function], Engine]] = {
        "eager": EagerEngine,
        "compiled": CompiledEngine,
        "cuda-graph": CudaGraphEngine,
    }
    functions = {form: function_of(encoder, video_decoder, form) for form in FORMS}
    engines = {form: kinds[mode](function) for form, function in functions.items()}
    most = None if mode == "eager" else MAX_BATCH  # the others keep something per batch size
    return EngineSet(engines, description=f"torch {mode}", max_batch=most)


class EagerEngine:
    def __init__(self, function: Function) -> None:
        self._function = function

    @torch.inference_mode()
    def run(self, x: Tensor) -> Tensor:
        return self._function(x)


class CompiledEngine(EagerEngine):
    """Compiled once per batch size, at its first call."""

    def __init__(self, function: Function) -> None:
        super().__init__(torch.compile(function, dynamic=False))

    def run(self, x: Tensor) -> Tensor:
        # Forms share their code, and beyond 8 variants of it dynamo would silently run eagerly.
        variants = len(FORMS) * MAX_BATCH
        with torch._dynamo.config.patch(recompile_limit=variants, fail_on_recompile_limit_hit=True):
            return super().run(x)


class CudaGraphEngine:
    """One captured graph per batch size, over its own input; captured at its first call.

    A replay overwrites the graph's output, so it is copied before the next caller may come.
    """

    def __init__(self, function: Function) -> None:
        self._function = function
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}
        self._lock, self._done = Lock(), torch.cuda.Event()

    @torch.inference_mode()
    def run(self, x: Tensor) -> Tensor:
        with self._lock:
            if len(x) not in self._graphs:
                self._graphs[len(x)] = self._capture(x)
            graph, own_input, own_output = self._graphs[len(x)]
            stream = torch.cuda.current_stream()
            stream.wait_event(self._done)  # the call before may have been on another stream
            own_input.copy_(x)
            graph.replay()
            result = own_output.clone()
            self._done.record(stream)
            return result

    def _capture(self, x: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        own_input, graph = x.clone(), torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._function(own_input)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            own_output = self._function(own_input)
        return graph, own_input, own_output
