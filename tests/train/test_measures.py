"""Held-out measures against values worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sim_stream.layout import FrameLayout
from tests.small import SMALL, random_vq, random_world_model
from train.config import LoopConfig, get_recipe
from train.evaluate import far_shift_px
from train.losses import psnr_db
from train.measures import coarse, psnr8
from train.optim import MuonAdamW, make_optimizer
from train.world_model import WorldModelNet, init_from_codebook


def test_psnr_of_a_known_error() -> None:
    x = torch.zeros(2, 3, 4, 4)
    y = torch.full_like(x, 0.2)
    assert psnr_db(y, x).tolist() == pytest.approx([20.0, 20.0], abs=1e-4)
    a = np.full((4, 4, 3), 100, np.uint8)
    assert psnr8(a, a.astype(float) + 25.5) == pytest.approx(20.0)


@pytest.mark.parametrize("shift", [-24, -8, 0, 8, 20])
def test_far_shift_finds_a_known_motion_and_its_sign(shift: int) -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (32, 40, 3), np.uint8)
    scene = small.repeat(8, 0).repeat(8, 1)  # 256 x 320, patches of eight pixels
    before, after = scene[:, 32:288], scene[:, 32 - shift : 288 - shift]
    assert far_shift_px(before, after) == pytest.approx(shift, abs=1.0)


def test_coarse_frames_are_means_of_four_by_four() -> None:
    frame = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    assert coarse(frame).shape == (2, 2, 3)
    assert coarse(frame)[0, 1, 2] == frame[:4, 4:, 2].mean()


def test_pockets_recipe_names_the_matrices_inside_its_world_model() -> None:
    layout = FrameLayout.of(SMALL, prompt_length=0)
    net = WorldModelNet(random_world_model(), layout, checkpointing=False)
    loop = LoopConfig(out=Path(), **get_recipe("pocket", "world-model").loop)
    optimizer = make_optimizer(net, loop)
    assert isinstance(optimizer, MuonAdamW)
    inner = sum(len(group["params"]) for group in optimizer.parts[0].param_groups)
    assert inner == 7 * SMALL.world_model.num_layers


def test_muon_gets_the_inner_matrices_and_adamw_the_rest() -> None:
    model = random_world_model()
    optimizer = make_optimizer(model, LoopConfig(out=Path(), steps=1, batch=1, muon="layers."))
    assert isinstance(optimizer, MuonAdamW)
    inner, rest = (
        {id(p) for group in part.param_groups for p in group["params"]} for part in optimizer.parts
    )
    for name, parameter in model.named_parameters():
        is_inner = name.startswith("layers.") and parameter.ndim == 2
        assert (id(parameter) in inner) == is_inner, name
        assert (id(parameter) in rest) != is_inner, name


def test_codes_that_look_alike_start_with_embeddings_that_are_alike() -> None:
    model, codebook = random_world_model(), random_vq().quantize.embedding.weight.detach().clone()
    codebook[1] = codebook[0] + 0.01
    init_from_codebook(model, codebook)
    for weight in (model.vte.weight, model.vision_head.weight):
        near, far = (weight[0] - weight[1]).norm(), (weight[0] - weight[2]).norm()
        assert near < 0.7 * far
