"""Losses and held-out measures against values worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.small import random_vq, random_world_model
from train.data import actions_at
from train.discriminator import (
    PatchDiscriminator,
    balanced_weight,
    discriminator_loss,
    generator_loss,
)
from train.evaluate import coarse, far_shift_px, psnr8
from train.loop import LoopConfig, make_optimizer
from train.losses import RecWeights, edge_loss, psnr_db, reconstruction_loss
from train.world_model import init_from_codebook


def test_reconstruction_loss_is_the_weighted_sum_of_its_terms() -> None:
    x = torch.zeros(1, 3, 2, 2)
    y = x.clone()
    y[..., 0, 0] = 0.5
    # One of four pixels is off by 0.5; it stands in one of two differences each way.
    assert edge_loss(y, x).item() == pytest.approx(0.25)
    loss = reconstruction_loss(y, x, RecWeights(l1=0.2, l2=2.0, edge=0.5))
    assert loss.item() == pytest.approx(0.2 * 0.125 + 2.0 * 0.0625 + 0.5 * 0.25)


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


def test_actions_follow_the_recorded_speed_and_turn_left_for_falling_course() -> None:
    rows = [
        {"timestamp": 1000 + 250 * i, "speed": 4.0 + i, "course": (10.0 - 9.0 * i) % 360.0}
        for i in range(4)
    ]
    info = {"startTime": 1000, "locations": rows[::-1]}
    actions = actions_at(info, np.array([0.0, 0.25, 0.5]), fps=4)
    assert actions[:, 0].tolist() == pytest.approx([4.0, 5.0, 6.0])
    # Nine degrees to the left in a quarter of a second, across north.
    assert actions[1:, 1].tolist() == pytest.approx([np.radians(36.0)] * 2, rel=1e-5)


def test_yaw_rate_is_zero_at_a_standstill() -> None:
    rows = [{"timestamp": 250 * i, "speed": 0.1, "course": 50.0 * i} for i in range(3)]
    actions = actions_at({"startTime": 0, "locations": rows}, np.array([0.0, 0.25]), fps=4)
    assert actions[:, 1].tolist() == [0.0, 0.0]


def test_hinge_losses_are_zero_exactly_where_the_margins_are_kept() -> None:
    assert discriminator_loss(torch.tensor([1.0, 2.0]), torch.tensor([-1.0, -3.0])).item() == 0.0
    assert discriminator_loss(torch.tensor([0.0]), torch.tensor([0.5])).item() == 2.5
    assert generator_loss(torch.tensor([1.0, 3.0])).item() == -2.0


def test_the_gan_weight_makes_its_gradient_the_given_share() -> None:
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    rec, gan = (3.0 * w).sum(), 0.01 * w[0]
    weight = balanced_weight(rec, gan, w, share=0.5)
    pulls = [torch.autograd.grad(loss, w, retain_graph=True)[0].norm() for loss in (rec, gan)]
    assert (weight * pulls[1] / pulls[0]).item() == pytest.approx(0.5, rel=1e-3)


def test_the_discriminator_scores_one_patch_per_eight_pixels() -> None:
    assert PatchDiscriminator()(torch.zeros(2, 3, 64, 64)).shape == (2, 1, 8, 8)


def test_muon_gets_the_inner_matrices_and_adamw_the_rest() -> None:
    model = random_world_model()
    optimizer = make_optimizer(model, LoopConfig(out=Path(), steps=1, muon="layers."))
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
