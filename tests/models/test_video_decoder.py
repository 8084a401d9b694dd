"""VideoDecoder: central inflation, windows of three, agreement with a real Conv3d."""

import pytest
import torch

from sim_stream.config import OPENVIGA, VideoDecoderConfig
from sim_stream.models.layers import TemporalConv, Upsample, channels_last, fold_upsampling
from sim_stream.models.video_decoder import VideoDecoder, inflate
from tests.small import SMALL, SMALL_VQ, random_video_decoder, random_vq

FRAMES = torch.randint(0, 32, (2, 3, 64), generator=torch.Generator().manual_seed(2))


def test_full_size_is_259_8_million_parameters() -> None:
    with torch.device("meta"):
        model = VideoDecoder(OPENVIGA.vq, OPENVIGA.video_decoder)
    assert sum(p.numel() for p in model.decoder.parameters()) == 259_843_843


@torch.no_grad()
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_freshly_inflated_it_equals_the_image_decoder_frame_by_frame(levels: int) -> None:
    vq = random_vq()
    video = inflate(vq, VideoDecoderConfig(temporal_levels=levels))
    frames = video(FRAMES)
    assert frames.shape == (2, 3, 3, 32, 32)
    for t in range(3):
        torch.testing.assert_close(frames[:, t], vq.decode(FRAMES[:, t]), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_the_emitted_frame_is_that_slot_of_all_three(levels: int) -> None:
    video = inflate(random_vq(), VideoDecoderConfig(temporal_levels=levels))
    for t in range(3):
        torch.testing.assert_close(video(FRAMES, emit=t), video(FRAMES)[:, t], atol=1e-6, rtol=0)


@torch.no_grad()
def test_the_middle_frame_depends_on_both_neighbours() -> None:
    video = random_video_decoder()
    middle = video(FRAMES, emit=1)
    for neighbour in (0, 2):
        changed = FRAMES.clone()
        changed[:, neighbour] = (changed[:, neighbour] + 1) % SMALL_VQ.num_vq_embeddings
        assert (video(changed, emit=1) - middle).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 2, 3])
@pytest.mark.parametrize("laid_out", [False, True])
def test_temporal_convolution_equals_conv3d(frames: int, laid_out: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = TemporalConv(4, 6), torch.nn.Conv3d(4, 6, 3, padding=1)
    theirs.load_state_dict(ours.state_dict())
    if laid_out:
        channels_last(ours)
    x_BCTHW = torch.randn(2, 4, frames, 8, 8)
    y = ours(x_BCTHW.transpose(1, 2).flatten(0, 1), frames)
    y_BCTHW = y.unflatten(0, (2, frames)).transpose(1, 2)
    torch.testing.assert_close(y_BCTHW, theirs(x_BCTHW), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("temporal", [False, True])
def test_folded_upsampling_is_the_same_map(temporal: bool) -> None:
    torch.manual_seed(0)
    upsample = Upsample(5, temporal=temporal)
    torch.nn.init.normal_(upsample.conv.bias)
    x_NCHW = torch.randn(6, 5, 7, 4)  # two clips of three frames, not square
    plain = [upsample(x_NCHW, 3), upsample(x_NCHW, 3, 2 if temporal else None)]
    upsample.fold()
    upsample.fold()
    assert upsample.conv.weight.shape[-2:] == (2, 2)
    folded = [upsample(x_NCHW, 3), upsample(x_NCHW, 3, 2 if temporal else None)]
    torch.testing.assert_close(folded, plain, atol=1e-5, rtol=1e-5)
    assert len(folded[1]) == (2 if temporal else 6)


@torch.no_grad()
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_a_folded_video_decoder_gives_the_same_frames(levels: int) -> None:
    video = inflate(random_vq(), VideoDecoderConfig(temporal_levels=levels))
    plain = [video(FRAMES), video(FRAMES, emit=1)]
    fold_upsampling(video)
    channels_last(video)
    folded = [video(FRAMES), video(FRAMES, emit=1)]
    torch.testing.assert_close(folded, plain, atol=1e-5, rtol=1e-5)


def test_more_temporal_levels_than_the_decoder_has_are_refused() -> None:
    with pytest.raises(ValueError, match=r"temporal_levels: got 4; allowed: 1\.\.3"):
        VideoDecoder(SMALL.vq, VideoDecoderConfig(temporal_levels=4))
