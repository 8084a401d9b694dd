"""A world model's rows follow their codes from one tokenizer to another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sim_stream.errors import InvalidInput
from sim_stream.models import checkpoints
from sim_stream.models.vq_model import VQModel
from tests.small import SMALL, random_vq, random_world_model, save_weights
from tests.train.worlds import loop, make_split, tokenizer_run
from train.build import Sources, world_model
from train.carry_over import carry_over, carry_over_from, counts_of
from train.config import LoraConfig, WorldModelTraining
from train.data.split import Split
from train.data.tokenize import tokenize
from train.parallel import Ranks
from train.world_model import WorldModelStage

CODES = SMALL.vq.num_vq_embeddings


def renumbered(vq: VQModel, order: torch.Tensor) -> VQModel:
    """The same tokenizer with code i where ``order[i]`` was."""
    other = VQModel(SMALL.vq).eval()
    other.load_state_dict(vq.state_dict())
    with torch.no_grad():
        other.quantize.embedding.weight.copy_(vq.quantize.embedding.weight[order])
    return other


@pytest.fixture
def order() -> torch.Tensor:
    return torch.randperm(CODES, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def sources(tmp_path: Path, order: torch.Tensor) -> Sources:
    """Older weights, and a run whose tokenizer is theirs with its codes renumbered."""
    init = save_weights(tmp_path / "old")
    new = renumbered(checkpoints.load(init, SMALL).vq_model, order)
    runs = tokenizer_run(tmp_path / "runs", new)
    found = Sources(cache=tmp_path / "cache", init=init, runs=runs)
    split = make_split(tmp_path / "cache" / "train")
    tokenize(split, new)
    return found


def stage_of(sources: Sources, out: Path, config: WorldModelTraining) -> WorldModelStage:
    return world_model(SMALL, config, loop(out, 2), sources, Ranks())


PLAIN = WorldModelTraining(frames=4, all_image_ids=False)


def test_pairs_of_ids_are_counted() -> None:
    new, old = np.array([[0, 1, 1], [2, 1, 0]], np.uint16), np.array([[2, 0, 0], [1, 2, 2]])
    expected = [[0, 0, 2], [2, 0, 1], [0, 1, 0]]
    assert counts_of(new, old.astype(np.uint16), 3).tolist() == expected


def test_rows_are_means_by_how_often_the_codes_met() -> None:
    model = random_world_model()
    before = model.vte.weight.detach().clone(), model.vision_head.weight.detach().clone()
    counts = torch.zeros(CODES, CODES)
    counts[0, 3], counts[0, 5], counts[1, 7] = 3, 1, 4
    carry_over(model, counts)
    for weight, old in zip((model.vte.weight, model.vision_head.weight), before, strict=True):
        torch.testing.assert_close(weight[0], 0.75 * old[3] + 0.25 * old[5])
        torch.testing.assert_close(weight[1], old[7])
        torch.testing.assert_close(weight[2], old[:CODES].mean(0))  # never seen
        assert torch.equal(weight[CODES:], old[CODES:])  # actions, ends of frames


def test_weights_of_another_tokenizer_keep_their_vocabulary(
    sources: Sources, order: torch.Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = stage_of(sources, tmp_path / "run", PLAIN)
    assert "of another tokenizer; its codes are carried over" in capsys.readouterr().out
    seen = torch.from_numpy(np.unique(Split.open(sources.cache, "train").ids()).astype(np.int64))
    assert len(seen) > 4
    old = checkpoints.load(tmp_path / "old", SMALL).world_model
    for name in ("vte", "vision_head"):
        found, before = getattr(stage.net.model, name).weight, getattr(old, name).weight
        torch.testing.assert_close(found[seen], before[order[seen]])
    torch.testing.assert_close(
        stage.net.model.layers[0].self_attn.q_proj.weight, old.layers[0].self_attn.q_proj.weight
    )


def test_weights_of_the_same_tokenizer_stay_as_they_are(
    sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = Split.open(sources.cache, "train")
    tokenize(split, checkpoints.load(tmp_path / "old", SMALL).vq_model)
    stage = stage_of(replace(sources, runs=None), tmp_path / "run", PLAIN)
    assert capsys.readouterr().out == ""
    old = checkpoints.load(tmp_path / "old", SMALL).world_model
    assert torch.equal(stage.net.model.vte.weight, old.vte.weight)


def test_adapters_learn_the_new_codes_themselves(
    sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage_of(sources, tmp_path / "run", replace(PLAIN, lora=LoraConfig(rank=4)))
    assert capsys.readouterr().out == ""


def test_a_split_of_ids_only_cannot_be_carried_over_from(sources: Sources) -> None:
    split = replace(Split.open(sources.cache, "train"), frames=None)
    with pytest.raises(InvalidInput, match=r"init: .*another tokenizer.*a cache with frames"):
        carry_over_from(random_world_model(), random_vq(), split, split.ids())
