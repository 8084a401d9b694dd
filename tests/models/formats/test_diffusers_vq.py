"""diffusers' VQModel folders: saved by diffusers, the same outputs, and the right pixel range."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import VQModel as DiffusersVQModel

from sim_stream.config import OPENVIGA, POCKET, VQConfig
from sim_stream.errors import CheckpointError, InvalidInput
from sim_stream.models import checkpoints, pixel_range
from sim_stream.models.conversion import convert, faults_of
from sim_stream.models.formats import diffusers_vq, identify
from sim_stream.models.verification import verify
from sim_stream.models.vq_model import VQModel
from sim_stream.video import SAMPLE


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


@pytest.fixture(scope="module")
def trained() -> DiffusersVQModel:
    """The shipped tokenizer as diffusers' own model: it knows pictures, in [-1, 1]."""
    twin = diffusers_twin(POCKET.vq)
    manifest = checkpoints.read_manifest(checkpoints.weights_dir("pocket", None))
    state = checkpoints.read_part(checkpoints.weights_dir("pocket", None), "vq_model", manifest)
    twin.load_state_dict({key: w.float() for key, w in state.items()})
    return twin


@pytest.fixture(scope="module")
def signed(trained: DiffusersVQModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signed") / "vqvae"
    trained.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def unit(trained: DiffusersVQModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network made for [0, 1], as aMUSEd's is: 2x - 1 before it and (y + 1) / 2 behind."""
    twin = diffusers_twin(POCKET.vq)
    twin.load_state_dict(trained.state_dict())
    with torch.no_grad():
        first, last = twin.encoder.conv_in, twin.decoder.conv_out
        first.bias -= first.weight.sum((1, 2, 3))
        first.weight *= 2
        last.weight /= 2
        last.bias.copy_(last.bias / 2 + 0.5)
    folder = tmp_path_factory.mktemp("unit") / "vqvae"
    twin.save_pretrained(folder)
    return folder


@pytest.fixture
def changed(signed: Path, tmp_path: Path) -> Iterator[Any]:
    """``changed(option=value)``: a copy of the folder whose config says that."""

    def change(**options: object) -> Path:
        folder = tmp_path / "changed"
        folder.mkdir()
        config = json.loads((signed / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **options}))
        (folder / "diffusion_pytorch_model.safetensors").symlink_to(
            signed / "diffusion_pytorch_model.safetensors"
        )
        return folder

    yield change


@torch.no_grad()
@pytest.mark.parametrize("name", ["signed", "unit"])
def test_converted_it_gives_diffusers_own_ids_and_pixels_in_the_range_that_was_found(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(name)
    manifest = convert([folder], tmp_path / "out")
    entry = manifest["files"]["vq_model"]
    assert entry["pixel_range"] == name
    assert entry["psnr_db"][name] > 30 > 20 > min(entry["psnr_db"].values())
    ours = checkpoints.load_part(tmp_path / "out", manifest, POCKET, "vq_model")
    assert isinstance(ours, VQModel)
    theirs = DiffusersVQModel.from_pretrained(folder).eval()
    x = torch.from_numpy(np.array(pixel_range.first_frames(SAMPLE, POCKET)))
    x_unit = x.movedim(-1, 1).float() / 255  # what diffusers' pipelines give aMUSEd's
    x_signed = x_unit * 2 - 1
    latents = theirs.encode(x_unit if name == "unit" else x_signed).latents
    _, _, (_, _, ids) = theirs.quantize(latents)
    assert (ours.encode(x_signed).flatten() == ids.flatten()).float().mean() == 1.0
    pixels = theirs.decode(latents).sample
    # The same operations; [0, 1] is stretched to [-1, 1] afterwards.
    torch.testing.assert_close(
        ours.decode(ours.encode(x_signed)),
        pixels * 2 - 1 if name == "unit" else pixels,
        atol=1e-4,
        rtol=1e-4,
    )
    assert verify(tmp_path / "out")["pixel_range"] == name


def test_a_range_that_reconstructs_nothing_is_refused_even_when_demanded(
    signed: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"signed 3\d\..*unit 1\d\..*plausible in unit"):
        convert([signed], tmp_path / "out", demanded_range="unit")
    with pytest.raises(InvalidInput, match="pixel_range: got 8bit; allowed: signed, unit"):
        convert([signed], tmp_path / "out", demanded_range="8bit")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_reconstruct_in_neither_range_are_refused(
    trained: DiffusersVQModel, tmp_path: Path
) -> None:
    twin = diffusers_twin(POCKET.vq)
    twin.load_state_dict(trained.state_dict())
    with torch.no_grad():
        twin.encoder.conv_in.weight.copy_(twin.encoder.conv_in.weight.flip(2))
        twin.decoder.conv_in.weight.copy_(twin.decoder.conv_in.weight.flip(0))
    twin.save_pretrained(tmp_path / "vqvae")
    with pytest.raises(CheckpointError, match="plausible in either range"):
        convert([tmp_path / "vqvae"], tmp_path / "out")


def test_ranges_too_close_to_call_must_be_said(
    signed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixel_range, "CLEAR_DB", 50.0)
    with pytest.raises(CheckpointError, match="say it with --pixel-range"):
        convert([signed], tmp_path / "out")
    assert convert([signed], tmp_path / "out", demanded_range="signed")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mid_block_add_attention": True}, "mid_block_add_attention is True"),
        (
            {"norm_type": "spatial", "act_fn": "relu"},
            "2 faults: .*act_fn.*; norm_type is 'spatial'",
        ),
        ({"vq_embed_dim": 8}, "vq_embed_dim is 8"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"] * 5}, "down_block_types"),
        ({"latent_channels": None, "novelty": 1}, "unknown option novelty"),
    ],
)
def test_options_that_make_it_another_network_are_all_named(
    changed: Any, options: dict[str, object], said: str
) -> None:
    with pytest.raises(CheckpointError, match=said):
        diffusers_vq.read(changed(**options))


def test_a_group_count_that_shapes_do_not_show_is_compared(changed: Any) -> None:
    source = diffusers_vq.read(changed(norm_num_groups=4))
    assert faults_of([source], POCKET, "vq_model") == [
        f"norm_num_groups is 4 in {source.path}, 8 in the preset"
    ]


def test_amused_config_is_the_papers_network(tmp_path: Path) -> None:
    """At full size on the meta device: every tensor of diffusers' network is one of ours."""
    with torch.device("meta"):
        theirs = diffusers_twin(OPENVIGA.vq)
    shapes = {key: tuple(w.shape) for key, w in theirs.state_dict().items()}
    assert len(shapes) == 277
    assert shapes == checkpoints.shapes_of(checkpoints.make_part(OPENVIGA, "vq_model"))
    theirs.save_config(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert diffusers_vq.config_faults(config) == []


def test_a_pickle_beside_the_config_is_not_read(signed: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((signed / "config.json").read_bytes())
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x02N.")
    with pytest.raises(CheckpointError, match=r"\.bin is a pickle: save it as safetensors"):
        diffusers_vq.read(tmp_path)


def test_a_pipeline_is_told_which_folder_to_name(signed: Path, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "vqvae").symlink_to(signed)
    with pytest.raises(CheckpointError, match=r"name the folder of its VQModel, of \['vqvae'\]"):
        identify.kind_of(tmp_path)
    assert identify.kind_of(tmp_path / "vqvae") == diffusers_vq.KIND
