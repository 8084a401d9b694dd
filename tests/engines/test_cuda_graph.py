"""On a CUDA device: the replayed graph gives what eager PyTorch gives, at full size too."""

from __future__ import annotations

import pytest
import torch

from sim_stream.config import OPENVIGA
from sim_stream.models.layers import fold_upsampling
from sim_stream.models.video_decoder import inflate
from sim_stream.models.vq_model import VQModel
from sim_stream.runtime.engine import EngineSet
from sim_stream.runtime.torch_engine import torch_engines
from tests.engines.conftest import TINY, real_frames
from tests.small import random_runtime

pytestmark = pytest.mark.gpu


def same(eager: EngineSet, other: EngineSet, frames: torch.Tensor) -> None:
    """The very kernels of the eager call are replayed, so every bit is equal."""
    ids = eager.encode(frames)
    assert torch.equal(other.encode(frames), ids)
    for count, emit in ((3, 1), (3, 2), (2, 1), (2, 0), (1, 0)):
        window = ids[None, :count]
        assert torch.equal(other.decode_frame(window, emit), eager.decode_frame(window, emit))


def test_a_cuda_graph_gives_what_eager_gives() -> None:
    eager = random_runtime(TINY, device="cuda")
    graph = torch_engines(eager.encoder, eager.video_decoder, "cuda-graph", eager.device)
    same(eager.engines, graph, real_frames(TINY, 3).cuda())


def test_a_result_survives_the_next_replay_on_another_stream() -> None:
    runtime = random_runtime(TINY, device="cuda", engines="cuda-graph")
    frames = real_frames(TINY, 2).cuda()
    first = runtime.engines.encode(frames[:1])
    kept = first.clone()
    with torch.cuda.stream(torch.cuda.Stream()):
        runtime.engines.encode(frames[1:])
    torch.cuda.synchronize()
    assert torch.equal(first, kept)


@pytest.mark.slow
def test_openviga_at_full_size_in_bf16() -> None:
    torch.manual_seed(0)
    encoder = VQModel(OPENVIGA.vq)
    video_decoder = inflate(encoder, OPENVIGA.video_decoder)
    fold_upsampling(video_decoder)
    device = torch.device("cuda")
    for model in (encoder, video_decoder):
        model.to(device, torch.bfloat16).eval().requires_grad_(False)
    frames = real_frames(OPENVIGA, 3).cuda()
    eager, graph = (
        torch_engines(encoder, video_decoder, mode, device) for mode in ("eager", "cuda-graph")
    )
    same(eager, graph, frames)
