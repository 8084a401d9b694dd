"""The forms that graphs are made of equal the models', operation by operation and as a whole."""

import pytest
import torch
import torch.nn.functional as F

from engines.graphs import (
    DTYPES,
    ChannelConcatConv,
    InterleavedUpsample,
    example_input,
    graph_module,
)
from sim_stream.errors import InvalidInput
from sim_stream.models.layers import TemporalConv, Upsample
from sim_stream.runtime.engine import ENCODE, FORMS, STEADY, Form, interface
from sim_stream.runtime.torch_engine import function_of
from tests.engines.conftest import TINY, real_frames, source_of
from tests.small import OPENVIGA_CUT

# fp32 sums over some hundred taps in another order
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_channel_concatenation_equals_conv3d(frames: int) -> None:
    torch.manual_seed(0)
    conv = TemporalConv(5, 7)
    x_BCTHW = torch.randn(2, 5, frames, 8, 6)
    expected = F.conv3d(x_BCTHW, conv.weight, conv.bias, padding=1).transpose(1, 2)
    ours, x_FCHW = ChannelConcatConv(conv, frames), x_BCTHW.transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(ours(x_FCHW, frames), expected.flatten(0, 1), **CLOSE)
    for emit in range(frames):
        torch.testing.assert_close(ours(x_FCHW, frames, emit), expected[:, emit], **CLOSE)


@pytest.mark.parametrize("temporal", [False, True])
def test_interleaved_upsampling_equals_nearest_and_conv(temporal: bool) -> None:
    torch.manual_seed(0)
    upsample, x = Upsample(4, temporal=temporal), torch.randn(6, 4, 5, 3)
    expected = upsample(x, 3)
    upsample.fold()
    torch.testing.assert_close(InterleavedUpsample(upsample)(x, 3), expected, **CLOSE)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_a_graph_gives_what_the_models_give(form: Form) -> None:
    source = source_of(TINY)
    frames = real_frames(TINY)
    ids = function_of(source.encoder, source.video_decoder, ENCODE)(frames)
    x = frames if form == ENCODE else ids[: form.frames][None]
    expected = function_of(source.encoder, source.video_decoder, form)(x)
    found = graph_module(form, source.encoder, source.video_decoder, "fp32")(x)
    takes, gives = interface(TINY.vq, form)
    assert (found.dtype, found.shape[1:]) == (getattr(torch, gives.dtype), gives.shape)
    assert (x.dtype, x.shape[1:]) == (getattr(torch, takes.dtype), takes.shape)
    if form == ENCODE:
        assert torch.equal(found, expected)
    else:  # a value on .5 may round either way
        assert (found.int() - expected.int()).abs().max() <= 1
        assert (found == expected).float().mean() > 0.999


def test_the_models_are_left_as_they_are() -> None:
    source = source_of(TINY)
    before = {k: v.clone() for k, v in source.video_decoder.state_dict().items()}
    graph_module(STEADY, source.encoder, source.video_decoder, "bf16")
    after = source.video_decoder.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_keeps_norms_in_fp32(precision: str) -> None:
    source = source_of(TINY)
    module = graph_module(STEADY, source.encoder, source.video_decoder, precision)
    kinds = {"norm": set(), "other": set()}
    for name, weight in module.named_parameters():
        kinds["norm" if ".norm" in name or "norm_out" in name else "other"].add(weight.dtype)
    assert kinds == {"norm": {torch.float32}, "other": {DTYPES[precision]}}
    assert module(example_input(STEADY, TINY, 1)).dtype == torch.uint8


def test_an_unknown_precision_is_refused_by_name() -> None:
    source = source_of(TINY)
    with pytest.raises(InvalidInput, match=r"precision.*fp8.*fp32, bf16, fp16"):
        graph_module(ENCODE, source.encoder, source.video_decoder, "fp8")


def test_the_cut_is_the_papers_network_but_for_depth() -> None:
    assert OPENVIGA_CUT.vq.codes_per_frame == 256
    assert OPENVIGA_CUT.vq.num_vq_embeddings == 8192
    assert OPENVIGA_CUT.video_decoder.temporal_levels == len(OPENVIGA_CUT.vq.block_out_channels)
