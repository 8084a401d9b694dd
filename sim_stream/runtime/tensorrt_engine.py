"""Engines run by TensorRT 10.13 and later, 11 included: the only module of the runtime that calls
it (`engines/tensorrt_builder.py` is its counterpart).

One execution context per batch size, on one stream of the engine's own, replayed as a CUDA graph
over its own input and output. Not yet run on a GPU: typed against the bindings' real signatures
(tests/engines/test_tensorrt_names.py), tested by tests/engines/test_tensorrt.py where there is one.

Legend: B batch.
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import NamedTuple

import tensorrt as trt
import torch
from torch import Tensor

from sim_stream.errors import EngineError, InvalidInput, Unavailable
from sim_stream.runtime.engine_manifest import GraphManifest

WARM_UPS = 2  # enqueues before a capture: TensorRT then has its resources for these shapes


class Replay(NamedTuple):
    """A captured call. The context must outlive its graph."""

    context: trt.IExecutionContext
    graph: torch.cuda.CUDAGraph
    x: Tensor
    y: Tensor


class TensorRTEngine:
    """A deserialized plan; one caller at a time, in turn."""

    def __init__(self, path: Path, graph: GraphManifest) -> None:
        """Raises Unavailable (no GPU), EngineError (corrupt, or of another GPU or version)."""
        if not torch.cuda.is_available():
            raise Unavailable("a TensorRT engine needs a CUDA device and there is none")
        self._takes, self._gives, self._max_batch = graph.input, graph.output, graph.max_batch
        self._messages = KeptErrors()
        self._runtime = trt.Runtime(self._messages)
        engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise EngineError(f"{path}: TensorRT {trt.__version__} refuses it: {self._messages}")
        self.engine = engine
        self._refuse_other_interface(path)
        self._stream, self._lock = torch.cuda.Stream(), Lock()
        self._replays: dict[int, Replay] = {}

    def _refuse_other_interface(self, path: Path) -> None:
        names = {
            self.engine.get_tensor_name(index): self.engine.get_tensor_mode(
                self.engine.get_tensor_name(index)
            )
            for index in range(self.engine.num_io_tensors)
        }
        expected = {
            self._takes.name: trt.TensorIOMode.INPUT,
            self._gives.name: trt.TensorIOMode.OUTPUT,
        }
        if names != expected:
            raise EngineError(f"{path}: its tensors are {names}, its manifest says {expected}")

    @torch.inference_mode()
    def run(self, x: Tensor) -> Tensor:
        """See `Engine.run`."""
        if not 1 <= len(x) <= self._max_batch:
            raise InvalidInput("batch", len(x), f"1..{self._max_batch}")
        with self._lock:
            caller = torch.cuda.current_stream()
            self._stream.wait_stream(caller)
            with torch.cuda.stream(self._stream):
                if len(x) not in self._replays:
                    self._replays[len(x)] = self._capture(x)
                replay = self._replays[len(x)]
                replay.x.copy_(x)
                replay.graph.replay()
                y = replay.y.clone()
            caller.wait_stream(self._stream)
            # Both were used on the engine's stream: their memory may not be reused before it.
            x.record_stream(self._stream)
            y.record_stream(caller)
            return y

    def bind(self, x: Tensor, y: Tensor) -> trt.IExecutionContext:
        """A context of its own that reads `x` and writes `y` whenever it is enqueued."""
        context = self.engine.create_execution_context()
        if context is None:
            raise EngineError(f"TensorRT cannot make an execution context: {self._messages}")
        done = (
            context.set_input_shape(self._takes.name, tuple(x.shape)),
            context.set_tensor_address(self._takes.name, x.data_ptr()),
            context.set_tensor_address(self._gives.name, y.data_ptr()),
        )
        if not all(done):
            raise EngineError(f"TensorRT takes no input of {tuple(x.shape)}: {self._messages}")
        return context

    def enqueue(self, context: trt.IExecutionContext) -> None:
        """On the current stream."""
        if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise EngineError(f"TensorRT cannot run the engine: {self._messages}")

    def layer_times_ms(self, x: Tensor) -> dict[str, float]:
        """Milliseconds of every layer in one run, without a graph; layers wait for each other."""
        dtype = getattr(torch, self._gives.dtype)
        y = torch.empty((len(x), *self._gives.shape), dtype=dtype, device=x.device)
        times = LayerTimes()
        with self._lock, torch.cuda.stream(self._stream):
            context = self.bind(x, y)
            self.enqueue(context)  # warms up
            context.profiler = times
            self.enqueue(context)
            self._stream.synchronize()
        return times.ms

    def _capture(self, x: Tensor) -> Replay:
        own_x = x.clone(memory_format=torch.contiguous_format)
        dtype = getattr(torch, self._gives.dtype)
        own_y = torch.empty((len(x), *self._gives.shape), dtype=dtype, device=x.device)
        context = self.bind(own_x, own_y)
        for _ in range(WARM_UPS):
            self.enqueue(context)
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            self.enqueue(context)
        return Replay(context, graph, own_x, own_y)


class LayerTimes(trt.IProfiler):
    def __init__(self) -> None:
        trt.IProfiler.__init__(self)
        self.ms: dict[str, float] = {}

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        self.ms[layer_name] = self.ms.get(layer_name, 0.0) + ms


class KeptErrors(trt.ILogger):
    """Keeps the last errors that TensorRT reported, for the message of ours."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self._said: list[str] = []

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
            self._said = [*self._said[-3:], msg]

    def __str__(self) -> str:
        return "; ".join(self._said) or "no reason given"
