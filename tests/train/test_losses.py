"""Each equation against an independent computation; gradients by finite differences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sim_stream.errors import CheckpointError, InvalidInput, Unavailable
from tests.small import SMALL, SMALL_VQ, random_vq
from tests.train.worlds import PIXELS, TINY_GAME
from train.config import (
    ABLATIONS,
    RECIPES,
    DiscriminatorConfig,
    LossConfig,
    TokenizerTraining,
    get_ablation,
)
from train.convnets import Perceptual, Taps, alexnet, normalise, vgg16
from train.discriminator import (
    PatchDiscriminator,
    balanced_weight,
    discriminator_loss,
    generator_loss,
)
from train.external import FILES, locate
from train.losses import (
    codebook_loss,
    distillation_loss,
    edge_loss,
    perceptual_loss,
    reconstruction_terms,
    texture_loss,
)
from train.teacher import load_teacher
from train.tokenizer import TokenizerNet, TokenizerStage


def finite_differences(function, x: Tensor, eps: float = 1e-6) -> Tensor:  # type: ignore[no-untyped-def]
    """Central differences of a scalar function of a float64 tensor."""
    grad = torch.zeros_like(x)
    for i in range(x.numel()):
        step = torch.zeros_like(x).flatten()
        step[i] = eps
        step = step.view_as(x)
        grad.view(-1)[i] = (function(x + step) - function(x - step)) / (2 * eps)
    return grad


def pictures(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_eq_2_is_the_weighted_sum_of_mean_l1_l2_and_perceptual() -> None:
    x, y = pictures(2, 3, 4, 4), pictures(2, 3, 4, 4, seed=1)
    a, b = x.numpy(), y.numpy()
    features = lambda z: [z.mean(1), z[..., ::2]]  # noqa: E731
    config = LossConfig(l1=0.2, l2=2.0, perceptual=0.3, edge=0.0)
    terms = reconstruction_terms(y, x, config, features)
    assert terms.keys() == {"l1", "l2", "perceptual"}
    assert terms["l1"].item() == pytest.approx(0.2 * np.abs(b - a).mean())
    assert terms["l2"].item() == pytest.approx(2.0 * ((b - a) ** 2).mean())
    eq_3 = ((b.mean(1) - a.mean(1)) ** 2).mean() + ((b - a)[..., ::2] ** 2).mean()
    assert terms["perceptual"].item() == pytest.approx(0.3 * eq_3, rel=1e-5)  # fp32 inside


def test_eq_3_gives_its_gradient_to_the_reconstruction_alone() -> None:
    torch.manual_seed(0)
    network = nn.Conv2d(3, 2, 3)
    x = torch.rand(1, 3, 5, 5, requires_grad=True)
    y = torch.rand(1, 3, 5, 5, requires_grad=True)
    perceptual_loss(lambda z: [network(z)], y, x).backward()
    assert x.grad is None
    assert y.grad is not None and y.grad.any()


def test_the_edge_term_is_the_mean_error_of_differences() -> None:
    x = torch.zeros(1, 3, 2, 2)
    y = x.clone()
    y[..., 0, 0] = 0.5
    # One of four pixels is off by 0.5; it stands in one of two differences each way.
    assert edge_loss(y, x).item() == pytest.approx(0.25)


def test_the_texture_term_compares_roughness_and_not_patterns() -> None:
    x = pictures(2, 3, 32, 32)
    small = x.numpy().reshape(2, 3, 8, 4, 8, 4).mean((3, 5))
    across, down = np.abs(np.diff(small, axis=-1)), np.abs(np.diff(small, axis=-2))
    # Against a flat picture it is the mean roughness; the last of two blocks has three differences.
    wanted = 0.5 * sum(
        np.mean([part.mean() for part in np.split(d, [4], axis=axis)])
        for d, axis in ((across, -1), (down, -2))
    )
    assert texture_loss(torch.full_like(x, 0.3), x).item() == pytest.approx(wanted)
    assert texture_loss(x.flip(-1), x).item() > 0.0
    assert texture_loss(1.0 - x, x).item() == pytest.approx(0.0, abs=1e-12)  # another pattern


def test_grain_is_wanted_by_the_texture_term_alone() -> None:
    x, other = pictures(1, 3, 32, 32), pictures(1, 3, 32, 32, seed=1)
    flat = torch.full_like(x, x.mean().item())
    assert texture_loss(other, x) < 0.5 * texture_loss(flat, x)
    assert edge_loss(other, x) > edge_loss(flat, x)
    y = (0.5 + 0.1 * (other - 0.5)).requires_grad_()
    texture_loss(y, x).backward()
    wanted = finite_differences(lambda v: texture_loss(v, x), y.detach())
    torch.testing.assert_close(y.grad, wanted, rtol=1e-4, atol=1e-8)


def test_eq_4_puts_beta_on_the_commitment_term() -> None:
    q = pictures(1, 2, 2, 2).requires_grad_()
    z = pictures(1, 2, 2, 2, seed=1).requires_grad_()
    loss = codebook_loss(q, z, beta=0.25)
    squared = ((q - z) ** 2).mean().item()
    assert loss.item() == pytest.approx(1.25 * squared)
    loss.backward()
    # The codebook is pulled with weight 1 (embedding), the encoder with beta (commitment).
    wanted = finite_differences(lambda v: ((v - z.detach()) ** 2).mean(), q.detach())
    torch.testing.assert_close(q.grad, wanted, rtol=1e-6, atol=1e-9)
    wanted = finite_differences(lambda v: 0.25 * ((v - q.detach()) ** 2).mean(), z.detach())
    torch.testing.assert_close(z.grad, wanted, rtol=1e-6, atol=1e-9)


def test_eq_5_is_one_minus_the_cosine_with_its_epsilon() -> None:
    p, t = pictures(2, 4, 6) - 0.5, pictures(2, 4, 6, seed=1) - 0.5
    a, b = p.numpy(), t.numpy()
    cosine = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
    assert distillation_loss(p, t).item() == pytest.approx((1 - cosine).mean())
    assert distillation_loss(3.0 * t, t).item() == pytest.approx(0.0, abs=1e-12)
    assert distillation_loss(-t, t).item() == pytest.approx(2.0)
    assert distillation_loss(torch.zeros(1, 1, 3), torch.zeros(1, 1, 3)).item() == 1.0
    p.requires_grad_()
    distillation_loss(p, t).backward()
    wanted = finite_differences(lambda v: distillation_loss(v, t), p.detach())
    torch.testing.assert_close(p.grad, wanted, rtol=1e-5, atol=1e-8)


def test_eq_6_and_7_are_the_hinge_losses_of_the_paper() -> None:
    real, fake = torch.tensor([0.5, 2.0, -1.0]), torch.tensor([-2.0, 0.0, 0.5])
    assert generator_loss(fake).item() == pytest.approx(-(-2.0 + 0.0 + 0.5) / 3)
    wanted = 0.5 * ((0.5 + 0.0 + 2.0) / 3 + (0.0 + 1.0 + 1.5) / 3)
    assert discriminator_loss(real, fake).item() == pytest.approx(wanted)
    assert discriminator_loss(torch.tensor([1.0, 2.0]), torch.tensor([-1.0, -3.0])).item() == 0.0


def test_the_balanced_weight_makes_its_gradient_the_given_share() -> None:
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    rec, gan = (3.0 * w).sum(), 0.01 * w[0]
    weight = balanced_weight(rec, gan, w, share=0.5)
    pulls = [torch.autograd.grad(loss, w, retain_graph=True)[0].norm() for loss in (rec, gan)]
    assert (weight * pulls[1] / pulls[0]).item() == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize(
    ("config", "patches", "field", "parameters"),
    [
        (DiscriminatorConfig(), 8, 222, 9_317_697),
        (DiscriminatorConfig(downs=3, tail_kernel=4), 30, 70, None),
    ],
    ids=["ours", "esser"],
)
def test_discriminator_patches_and_receptive_field(
    config: DiscriminatorConfig, patches: int, field: int, parameters: int | None
) -> None:
    """Counted by the gradient of one middle score; norms, which see everything, taken out."""
    model = PatchDiscriminator(replace(config, width=32, norm_groups=1))
    x = torch.rand(1, 3, 256, 256, requires_grad=True)
    assert model(x).shape == (1, 1, patches, patches)
    for index, layer in enumerate(model.layers):
        if isinstance(layer, nn.GroupNorm):
            model.layers[index] = nn.Identity()
        if isinstance(layer, nn.Conv2d):
            nn.init.constant_(layer.weight, 1e-3)  # no cancellation
    model(x)[0, 0, patches // 2 - 1, patches // 2 - 1].backward()
    assert x.grad is not None
    touched = x.grad[0].sum(0) != 0
    rows, columns = touched.any(1).nonzero()[:, 0], touched.any(0).nonzero()[:, 0]
    spans = [int(found[-1] - found[0]) + 1 for found in (rows, columns)]
    assert spans == [min(field, 256)] * 2
    if parameters:
        with torch.device("meta"):
            counted = sum(p.numel() for p in PatchDiscriminator(config).parameters())
        assert counted == parameters


def test_the_clip_discriminator_scores_three_frames_at_64_patches() -> None:
    with torch.device("meta"):
        model = PatchDiscriminator(DiscriminatorConfig(), temporal=True)
        assert model(torch.zeros(2, 3, 3, 256, 256)).shape == (2, 1, 3, 8, 8)


def test_gradients_of_all_losses_are_copied_from_codes_to_latents() -> None:
    vq = random_vq().double()
    net = TokenizerNet(vq, 8).double()
    x = pictures(1, 3, 32, 32) * 2 - 1
    seen, ids = {}, vq.encode(x)

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        output.retain_grad()
        seen["z"] = output

    vq.quant_conv.register_forward_hook(keep)
    out = net(x, 0.25)
    assert torch.equal(out.ids_BN, ids)
    assert out.projected_BND.shape == (1, 64, 8)
    out.x_BCHW.sum().backward()
    q = vq.lookup(out.ids_BN).detach().requires_grad_()
    vq.decoder(vq.post_quant_conv(q)).sum().backward()
    torch.testing.assert_close(seen["z"].grad, q.grad, rtol=1e-4, atol=1e-6)  # z is made fp32
    assert vq.quantize.embedding.weight.grad is None


def noise_frames(count: int) -> torch.Tensor:
    """As a split holds them."""
    return torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8)


def test_switching_a_loss_off_leaves_out_what_only_it_needs() -> None:
    stage = TokenizerStage(random_vq(), TokenizerTraining(losses=replace(PIXELS, gan=0.0)), None)
    assert not stage.players
    assert stage.net.adapter is None
    with torch.no_grad():
        _, figures = stage.loss(stage.model, (noise_frames(1),))
    assert not {"ssl", "perceptual", "g_loss"} & figures.keys()


def test_generator_and_discriminator_start_on_their_own_and_do_not_train_each_other() -> None:
    config = TokenizerTraining(losses=PIXELS, discriminator=TINY_GAME)
    stage = TokenizerStage(random_vq().train(), config, None)
    batch = (noise_frames(2),)
    (player,) = stage.players.values()
    for progress, plays, pulls in ((0.1, False, False), (0.25, True, False), (0.5, True, True)):
        stage.before_step(0, progress)
        loss, figures = stage.loss(stage.model, batch)
        loss.backward()
        assert ("g_loss" in figures) == pulls
        assert all(p.grad is None for p in player.model.parameters())
        stage.model.zero_grad()
        played = stage.player_loss("d", player.model)
        assert (played is not None) == plays
        if played is not None:
            played.backward()
            assert all(p.grad is not None for p in player.model.parameters())
            assert all(p.grad is None for p in stage.model.parameters())
            player.model.zero_grad()


def test_the_papers_weights_and_ablations_are_ready() -> None:
    """Sec. IV-B and Tables II-IV."""
    ours = RECIPES["openviga", "tokenizer"].stage
    weights = (ours.losses.l1, ours.losses.l2, ours.losses.perceptual, ours.losses.gan)
    assert weights == (0.2, 2.0, 1.0, 1.0)
    assert (ours.losses.codebook, ours.losses.beta, ours.losses.ssl) == (1.0, 0.25, 0.1)
    assert ours.losses.teacher == "dinov2"
    assert ours.discriminator.generator_from * 200_000 == 20_000
    vdec = RECIPES["openviga", "video-decoder"]
    assert vdec.stage.discriminator.generator_from * vdec.loop["steps"] == 2_000
    off = {name: get_ablation(f"table2-no-{name}").losses for name in ("ssl", "perceptual", "gan")}
    assert all(getattr(losses, name) == 0.0 for name, losses in off.items())
    assert get_ablation("table2-no-l2").losses.l2 == 0.0
    rows = [get_ablation(name) for name in ABLATIONS if name.startswith("table3-")]
    assert [(r.losses.perceptual, r.losses.gan) for r in rows] == [
        (0.1, 1.0), (0.1, 1.0), (0.1, 1.5), (0.3, 1.0), (0.3, 1.2), (1.0, 1.0), (2.0, 1.0),
        (2.0, 2.0),
    ]  # fmt: skip
    assert [r.discriminator.downs for r in rows] == [3] + [5] * 7
    assert get_ablation("table4-dino").losses.teacher == "dino"
    with pytest.raises(InvalidInput, match="ablation"):
        get_ablation("table9")


@pytest.mark.parametrize(("build", "inputs"), [(vgg16, 16), (alexnet, 63)])
def test_feature_networks_load_torchvisions_layout(build, inputs: int) -> None:  # type: ignore[no-untyped-def]
    """Parameter counts of the feature layers as torchvision has them; its key names."""
    taps = (3, 8, 15, 22, 29) if build is vgg16 else (1, 4, 7, 9, 11)
    network: Taps = build(taps)
    counted = sum(p.numel() for p in network.parameters())
    assert counted == {vgg16: 14_714_688, alexnet: 2_469_696}[build]
    state = {key: torch.full_like(v, 0.01) for key, v in network.state_dict().items()}
    network.load({**state, "classifier.0.weight": torch.zeros(1)}, "file")
    found = network(torch.rand(1, 3, inputs, inputs))
    widths = {vgg16: [64, 128, 256, 512, 512], alexnet: [64, 192, 384, 256, 256]}[build]
    assert [f.shape[1] for f in found] == widths
    with pytest.raises(CheckpointError, match=r"missing features.0.bias"):
        network.load({k: v for k, v in state.items() if k != "features.0.bias"}, "file")


def test_pixels_are_normalised_as_imagenet() -> None:
    x = torch.tensor([-1.0, 0.0, 1.0]).view(1, 1, 1, 3).expand(1, 3, 1, 3)
    wanted = (torch.tensor([0.0, 0.5, 1.0]) - 0.456) / 0.224
    torch.testing.assert_close(normalise(x)[0, 1, 0], wanted)
    features = Perceptual(vgg16((3,)))(torch.rand(1, 3, 16, 16))
    assert features[0].shape == (1, 64, 16, 16)


@pytest.mark.parametrize("kind", ["dinov2", "dino"])
def test_a_teacher_gives_one_token_for_every_code(kind: str, tmp_path: Path) -> None:
    """Real classes of transformers with small random weights, from a local folder."""
    from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

    size = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    if kind == "dinov2":
        Dinov2Model(Dinov2Config(patch_size=14, image_size=70, **size)).save_pretrained(tmp_path)
    else:
        config = ViTConfig(patch_size=16, image_size=64, intermediate_size=32, **size)
        ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    teacher = load_teacher(kind, tmp_path, SMALL_VQ.grid)
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    tokens = teacher(x)
    assert tokens.shape == (2, SMALL_VQ.codes_per_frame, 24)
    assert not tokens.requires_grad
    # The top left code's token follows the top left pixels most.
    moved = x.clone()
    moved[..., :4, :4] = 1.0
    change = (teacher(moved) - tokens).norm(dim=-1)[0]
    assert change.argmax() == 0
    other = {"dinov2": "dino", "dino": "dinov2"}[kind]
    with pytest.raises(InvalidInput, match="teacher"):
        load_teacher(other, tmp_path, SMALL_VQ.grid)


def test_distillation_reaches_the_encoder_through_the_adapter(tmp_path: Path) -> None:
    from transformers import Dinov2Config, Dinov2Model

    size = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    Dinov2Model(Dinov2Config(patch_size=14, image_size=70, **size)).save_pretrained(tmp_path)
    teacher = load_teacher("dinov2", tmp_path, SMALL.vq.grid)
    losses = replace(PIXELS, l1=0.0, l2=0.0, edge=1e-9, codebook=0.0, gan=0.0, ssl=0.1)
    stage = TokenizerStage(
        random_vq().train(), TokenizerTraining(losses=losses), None, teacher=teacher
    )
    loss, figures = stage.loss(stage.model, (noise_frames(2),))
    assert 0.0 < figures["ssl"].item() < 0.2
    loss.backward()
    assert stage.net.adapter is not None and stage.net.adapter.weight.grad is not None
    assert stage.vq.encoder.conv_in.weight.grad.norm() > 1e-6  # type: ignore[union-attr]


def test_networks_are_refused_by_name_without_their_file_or_with_another(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"perceptual loss .* needs vgg16-397923af.pth"):
        locate("vgg16", tmp_path)
    (tmp_path / FILES["vgg16"].name).write_bytes(b"something else")
    with pytest.raises(CheckpointError, match=r"SHA-256 is .* begins with 397923af"):
        locate("vgg16", tmp_path)
    with pytest.raises(Unavailable, match="needs the dinov2 teacher"):
        load_teacher("dinov2", None, 16)
