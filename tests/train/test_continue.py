"""`video-decoder --continue`: from trained weights of the same tokenizer, not from inflated ones.
`tokenizer --continue`: with its codebook. `tokenizer --decoder-only`: without touching any id.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sim_stream.errors import InvalidInput
from sim_stream.models import checkpoints
from sim_stream.models.video_decoder import inflate
from sim_stream.models.vq_model import from_pixels
from tests.small import SMALL, random_vq, save_weights
from tests.train.worlds import loop, make_split, tokenizer_run
from train.build import Sources, load_vq, tokenizer, video_decoder
from train.cli import parser
from train.config import LossConfig, TokenizerTraining, VideoDecoderTraining, get_recipe
from train.data.ids import tokenizer_sha256
from train.data.tokenize import tokenize
from train.loop import Trainer
from train.parallel import Ranks
from train.stages import recipe_of

PIXELS = VideoDecoderTraining(losses=LossConfig(perceptual=0.0, ssl=0.0, gan=0.0, codebook=0.0))

PLAIN_DECODER = TokenizerTraining(losses=PIXELS.losses).of_decoder()


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    tokenize(make_split(tmp_path / "cache" / "train"), random_vq())
    return Sources(cache=tmp_path / "cache", init=save_weights(tmp_path / "weights"))


def built(sources: Sources, tmp_path: Path, *, continued: bool) -> dict[str, torch.Tensor]:
    stage = video_decoder(
        SMALL, PIXELS, loop(tmp_path / "run", 1), sources, Ranks(), continued=continued
    )
    return stage.decoder.state_dict()


def test_a_video_decoder_starts_inflated_or_goes_on(sources: Sources, tmp_path: Path) -> None:
    loaded = checkpoints.load(tmp_path / "weights", SMALL)
    fresh = inflate(loaded.vq_model, SMALL.video_decoder).state_dict()
    for continued, expected in ((False, fresh), (True, loaded.video_decoder.state_dict())):
        found = built(sources, tmp_path, continued=continued)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert any(not torch.equal(fresh[key], found[key]) for key in fresh)


def test_a_video_decoder_of_another_tokenizer_is_refused(sources: Sources, tmp_path: Path) -> None:
    other = save_weights(tmp_path / "other", seed=5)
    sources = replace(sources, runs=tokenizer_run(tmp_path / "runs", random_vq()))
    with pytest.raises(InvalidInput, match=r"init: got none; .*--init WEIGHTS"):
        built(replace(sources, init=None), tmp_path, continued=True)
    with pytest.raises(InvalidInput, match=r"init: got .*other \(tokenizer .*a video decoder of"):
        built(replace(sources, init=other), tmp_path, continued=True)


def test_an_image_decoder_learns_alone_and_ids_stay(sources: Sources, tmp_path: Path) -> None:
    options = loop(tmp_path / "runs" / "tokenizer", 30)
    stage = tokenizer(SMALL, PLAIN_DECODER, options, sources, Ranks())
    before = {key: value.clone() for key, value in stage.vq.state_dict().items()}
    assert stage.batches is not None
    x = from_pixels(stage.batches(0))

    def error() -> float:
        with torch.no_grad():
            return float((stage.vq.decode(stage.vq.encode(x)) - x).square().mean())

    at_first = error()
    Trainer(stage, options).run()
    assert error() < 0.8 * at_first
    moved = {key for key, old in before.items() if not torch.equal(old, stage.vq.state_dict()[key])}
    assert moved and all(key.startswith(("decoder.", "post_quant_conv.")) for key in moved)
    trained = load_vq(SMALL, replace(sources, runs=tmp_path / "runs"))
    assert tokenizer_sha256(trained) == tokenizer_sha256(load_vq(SMALL, sources))


def test_nothing_that_moves_codes_is_trained_with_the_decoder_alone(
    sources: Sources, tmp_path: Path
) -> None:
    recipe = get_recipe("openviga", "tokenizer").stage
    assert isinstance(recipe, TokenizerTraining)
    alone = recipe.of_decoder()
    assert (alone.losses.codebook, alone.losses.ssl, alone.plain_share) == (0.0, 0.0, 0.0)
    assert alone.losses.perceptual == recipe.losses.perceptual
    with pytest.raises(InvalidInput, match=r"losses\.codebook: got 1\.0; allowed: 0"):
        replace(alone, losses=recipe.losses)
    bare = replace(sources, init=None)
    with pytest.raises(InvalidInput, match="init: got none"):
        tokenizer(SMALL, PLAIN_DECODER, loop(tmp_path / "run", 1), bare, Ranks())


def recipe(*options: str) -> TokenizerTraining:
    stage = recipe_of(parser().parse_args(["tokenizer", *options])).stage
    assert isinstance(stage, TokenizerTraining)
    return stage


def test_a_tokenizer_that_goes_on_keeps_its_codebook() -> None:
    assert recipe().plain_share > 0
    assert recipe("--continue") == replace(recipe(), plain_share=0.0)
    assert recipe("--decoder-only") == recipe().of_decoder()


def test_a_tokenizer_goes_on_whole_or_its_decoder_alone() -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["tokenizer", "--continue", "--decoder-only"])
    with pytest.raises(InvalidInput, match=r"losses\.codebook: got 1\.0; allowed: 0"):
        recipe("--decoder-only", "--loss", "codebook=1")
