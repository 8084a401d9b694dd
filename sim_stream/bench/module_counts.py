"""Operations, bytes and peak memory of the modules that no closed form fits, without running them.

The real modules run on fake tensors: shapes and types without memory or arithmetic. Operations are
torch's own FlopCounterMode; bytes are the least that must move (weights, input, output: whatever
lies between could stay in a cache); peak memory is that of all tensors alive at once.

Legend: B batch, T frames, N ids of a frame, C channels, H height, W width.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from sim_stream.bench.counting import Work
from sim_stream.config import Preset, WorldModelConfig
from sim_stream.models.layers import fold_upsampling
from sim_stream.models.video_decoder import VideoDecoder
from sim_stream.models.vq_model import VQModel
from sim_stream.models.world_model import WorldModel
from sim_stream.pipelines.tokens.random_weights import meta_models

INT64_BYTES = 8


@dataclass(frozen=True, kw_only=True)
class Cost:
    work: Work
    peak_bytes: int  # beside weights


class PeakMemory(TorchDispatchMode):
    """Follows the storages that operations make; ``peak`` is the most that lived at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._alive = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for leaf in tree_leaves((args, kwargs)):  # what was there before is not counted
            if isinstance(leaf, Tensor):
                self._known.add(leaf.untyped_storage())
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._follow(leaf.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self._alive += size
        self.peak = max(self.peak, self._alive)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self._alive -= size


class _Encode(nn.Module):
    """`VQModel.encode` with nothing of the model beside what it uses."""

    def __init__(self, model: VQModel) -> None:
        super().__init__()
        self.encoder, self.quant_conv = model.encoder, model.quant_conv
        self.quantize = model.quantize

    def forward(self, x_BCHW: Tensor) -> Tensor:
        z_BDGG = self.quant_conv(self.encoder(x_BCHW))
        return self.quantize.nearest(z_BDGG.permute(0, 2, 3, 1).flatten(0, 2))


def inference_models(preset: Preset) -> tuple[VQModel, WorldModel, VideoDecoder]:
    """The three models without memory, in the form that a runtime holds: upsampling folded."""
    vq_model, world_model, video_decoder = meta_models(preset)
    with torch.device("meta"):
        fold_upsampling(video_decoder)
    return vq_model, world_model, video_decoder


def encode_cost(model: VQModel, *, frames: int, dtype: torch.dtype) -> Cost:
    """Pixels of ``frames`` frames -> ids."""
    frame, codes = model.config.frame, model.config.codes_per_frame
    moved = frames * (3 * frame.height * frame.width * dtype.itemsize + codes * INT64_BYTES)
    shape = (frames, 3, frame.height, frame.width)
    return _cost(_Encode(model), lambda: (torch.empty(shape, dtype=dtype),), dtype, moved)


def decode_cost(model: VideoDecoder, *, frames: int, emit: int, dtype: torch.dtype) -> Cost:
    """Ids of a window of frames -> pixels of one of them."""
    codes = math.prod(model.grid)
    pixels = codes * 4 ** (len(model.decoder.up_blocks) - 1)
    moved = frames * codes * INT64_BYTES + 3 * pixels * dtype.itemsize

    def arguments() -> tuple[Tensor, int]:
        return torch.zeros(1, frames, codes, dtype=torch.int64), emit

    return _cost(model, arguments, dtype, moved)


def prefill_peak_bytes(config: WorldModelConfig, *, ids: int, dtype: torch.dtype) -> int:
    """Peak memory of a pass of that many ids beside weights and cache."""
    with torch.device("meta"):
        model = WorldModel(config)  # one of its own: the fake rotary tables stay in it

    def arguments() -> tuple[Tensor]:
        return (torch.zeros(1, ids, dtype=torch.int64),)

    return _cost(model, arguments, dtype, moved=0).peak_bytes


def weight_bytes(model: nn.Module, dtype: torch.dtype) -> int:
    return sum(p.numel() for p in model.parameters()) * dtype.itemsize


def _cost(
    module: nn.Module, arguments: Callable[[], tuple[Any, ...]], dtype: torch.dtype, moved: int
) -> Cost:
    shapes = {name: value.shape for name, value in module.state_dict().items()}
    with FakeTensorMode(), torch.inference_mode():
        state = {name: torch.empty(shape, dtype=dtype) for name, shape in shapes.items()}
        given = arguments()
        with PeakMemory() as memory, FlopCounterMode(display=False) as counter:
            functional_call(module, state, given)
    flop = float(counter.get_total_flops())
    return Cost(
        work=Work(flop=flop, bytes=weight_bytes(module, dtype) + moved), peak_bytes=memory.peak
    )
