"""VQModel: the paper's parameter counts, and the arithmetic of diffusers' VQModel."""

import pytest
import torch
import torch.nn.functional as F
from diffusers import VQModel as DiffusersVQModel

from sim_stream.config import OPENVIGA, VQConfig
from sim_stream.errors import InvalidInput
from sim_stream.models.vq_model import VQModel, from_pixels, to_pixels
from tests.small import SMALL_VQ, random_vq


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_openviga_counts_are_the_papers() -> None:
    with torch.device("meta"):
        model = VQModel(OPENVIGA.vq)
    assert count(model.encoder) == 58_693_568
    assert count(model.decoder) == 87_018_499
    assert count(model.quantize) == 524_288
    assert count(model.quant_conv) == count(model.post_quant_conv) == 4_160
    assert len(model.state_dict()) == 277


def diffusers_twin(config: VQConfig) -> DiffusersVQModel:
    levels = len(config.block_out_channels)
    return DiffusersVQModel(
        block_out_channels=config.block_out_channels,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        layers_per_block=config.layers_per_block,
        latent_channels=config.latent_channels,
        num_vq_embeddings=config.num_vq_embeddings,
        norm_num_groups=config.norm_num_groups,
        mid_block_add_attention=False,
        lookup_from_codebook=True,
        norm_type="group",
    ).eval()


@torch.no_grad()
def test_same_weights_give_diffusers_latents_ids_and_pixels() -> None:
    ours = random_vq()
    theirs = diffusers_twin(SMALL_VQ)
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    latents = theirs.encode(x).latents
    # Same operations in the same order: only kernel choice may differ.
    torch.testing.assert_close(ours.latents(x), latents, atol=1e-5, rtol=1e-5)
    _, _, (_, _, ids) = theirs.quantize(latents)
    assert torch.equal(ours.encode(x).flatten(), ids.flatten())
    torch.testing.assert_close(
        ours.decode(ours.encode(x)), theirs.decode(latents).sample, atol=1e-5, rtol=1e-5
    )


def test_openviga_keys_and_shapes_are_diffusers() -> None:
    with torch.device("meta"):
        ours, theirs = VQModel(OPENVIGA.vq), diffusers_twin(OPENVIGA.vq)
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (ours, theirs)]
    assert shapes[0] == shapes[1]


def test_codebook_loss_is_equation_4_with_beta_on_the_commitment_term() -> None:
    model = random_vq()
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    z = model.latents(x)
    q = model.lookup(model.encode(x))
    expected = (z - q).square().mean() * 1.25
    assert torch.allclose(model(x).codebook_loss, expected)
    model(x, beta=0.0).codebook_loss.backward()
    # Without the commitment term the encoder hears nothing of this loss; the codebook does.
    assert all(p.grad is None or not p.grad.any() for p in model.encoder.parameters())
    assert model.quantize.embedding.weight.grad is not None
    assert model.quantize.embedding.weight.grad.any()


def test_gradient_passes_straight_through_the_quantiser() -> None:
    model = random_vq()
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    F.mse_loss(model(x).x_BCHW, x).backward()
    assert model.encoder.conv_in.weight.grad is not None
    assert model.encoder.conv_in.weight.grad.abs().max() > 0


def test_pixels_survive_the_way_to_floats_and_back() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 16, 16, 3)
    assert torch.equal(to_pixels(from_pixels(pixels)), pixels)


def test_channels_that_groups_do_not_divide_are_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match=r"block_out_channels: got 20; allowed: multiples of 8"):
        VQConfig(
            block_out_channels=(8, 20),
            layers_per_block=1,
            latent_channels=4,
            num_vq_embeddings=8,
            norm_num_groups=8,
        )
