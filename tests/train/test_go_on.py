"""`video-decoder --go-on`: from trained weights of the same tokenizer, not from inflated ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sim_stream.errors import InvalidInput
from sim_stream.models import checkpoints
from sim_stream.models.video_decoder import inflate
from tests.small import SMALL, random_vq, save_weights
from tests.train.worlds import loop, make_split, tokenizer_run
from train.build import Sources, video_decoder
from train.config import LossConfig, VideoDecoderTraining
from train.data.tokenize import tokenize
from train.parallel import Ranks

PIXELS = VideoDecoderTraining(losses=LossConfig(perceptual=0.0, ssl=0.0, gan=0.0, codebook=0.0))


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    tokenize(make_split(tmp_path / "cache" / "train"), random_vq())
    return Sources(cache=tmp_path / "cache", init=save_weights(tmp_path / "weights"))


def built(sources: Sources, tmp_path: Path, *, go_on: bool) -> dict[str, torch.Tensor]:
    stage = video_decoder(SMALL, PIXELS, loop(tmp_path / "run", 1), sources, Ranks(), go_on=go_on)
    return stage.decoder.state_dict()


def test_a_video_decoder_starts_inflated_or_goes_on(sources: Sources, tmp_path: Path) -> None:
    loaded = checkpoints.load(tmp_path / "weights", SMALL)
    fresh = inflate(loaded.vq_model, SMALL.video_decoder).state_dict()
    for go_on, expected in ((False, fresh), (True, loaded.video_decoder.state_dict())):
        found = built(sources, tmp_path, go_on=go_on)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert any(not torch.equal(fresh[key], found[key]) for key in fresh)


def test_a_video_decoder_of_another_tokenizer_is_refused(sources: Sources, tmp_path: Path) -> None:
    other = save_weights(tmp_path / "other", seed=5)
    sources = replace(sources, runs=tokenizer_run(tmp_path / "runs", random_vq()))
    with pytest.raises(InvalidInput, match=r"init: got none; .*--init WEIGHTS"):
        built(replace(sources, init=None), tmp_path, go_on=True)
    with pytest.raises(InvalidInput, match=r"init: got .*other \(tokenizer .*a video decoder of"):
        built(replace(sources, init=other), tmp_path, go_on=True)
