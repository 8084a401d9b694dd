"""Weights folders: what was saved is what is loaded, and nothing else is."""

import json
from pathlib import Path

import pytest
import torch

from sim_stream.errors import CheckpointError
from sim_stream.expects import NOTHING_SAID
from sim_stream.models import checkpoints
from tests.small import (
    SMALL,
    random_video_decoder,
    random_vq,
    random_world_model,
    save_weights,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_weights(tmp_path / "small-1")


def edit_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewrite(folder: Path, part: str, state: dict[str, torch.Tensor]) -> None:
    """Replaces a part and its hash in the manifest: well-formed, but not what is expected."""
    from safetensors.torch import save_file

    save_file(state, folder / f"{part}.safetensors")
    manifest = json.loads((folder / "manifest.json").read_text())
    data = (folder / f"{part}.safetensors").read_bytes()
    manifest["files"][part]["sha256"] = checkpoints.sha256_of(data)
    edit_manifest(folder, files=manifest["files"])


def test_loading_gives_the_saved_weights_in_fp32(folder: Path) -> None:
    loaded = checkpoints.load(folder, SMALL)
    assert loaded.model_id == "small-1"
    for model, source in (
        (loaded.vq_model, random_vq()),
        (loaded.world_model, random_world_model()),
        (loaded.video_decoder, random_video_decoder()),
    ):
        for key, value in source.state_dict().items():
            stored = model.state_dict()[key]
            assert stored.dtype == torch.float32
            assert torch.equal(stored, value.half().float()), key


def test_a_changed_byte_is_refused_naming_both_hashes(folder: Path) -> None:
    path = folder / "world_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"world_model\.safetensors: SHA-256 is \w{64}, the"):
        checkpoints.load(folder, SMALL)
    with pytest.raises(CheckpointError, match="SHA-256"):
        checkpoints.verify(folder)


def test_missing_extra_and_misshapen_tensors_are_all_named_at_once(folder: Path) -> None:
    state = {k: v.contiguous() for k, v in random_world_model().state_dict().items()}
    del state["norm.weight"]
    state["surplus"] = torch.zeros(2)
    state["vte.weight"] = torch.zeros(3, 3)
    rewrite(folder, "world_model", state)
    with pytest.raises(CheckpointError) as caught:
        checkpoints.load(folder, SMALL)
    for fault in ("missing norm.weight (32,)", "extra surplus (2,)", "vte.weight has shape (3, 3)"):
        assert fault in str(caught.value)


def test_another_configuration_is_refused_naming_both_sides(folder: Path) -> None:
    config = json.loads((folder / "manifest.json").read_text())["config"]
    config["vq"]["latent_channels"] = 5
    edit_manifest(folder, config=config)
    with pytest.raises(CheckpointError, match=r"another configuration: vq: .*5.* against .*4"):
        checkpoints.load(folder, SMALL)


def test_weights_that_mean_other_yaw_rates_are_refused(folder: Path) -> None:
    config = json.loads((folder / "manifest.json").read_text())["config"]
    del config["action_bins"]["straight_bins"]  # as made until November 2026: every bin by itself
    edit_manifest(folder, config=config)
    with pytest.raises(CheckpointError, match=r"configuration: action_bins: .*straight_bins': 3"):
        checkpoints.load(folder, SMALL)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 99}', '{"format": 1}', "\x00"])
def test_a_broken_manifest_is_refused(folder: Path, content: str) -> None:
    (folder / "manifest.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        checkpoints.load(folder, SMALL)


def test_a_file_that_is_no_safetensors_is_refused(folder: Path) -> None:
    (folder / "vq_model.safetensors").write_bytes(b"junk")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["vq_model"]["sha256"] = checkpoints.sha256_of(b"junk")
    edit_manifest(folder, files=manifest["files"])
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        checkpoints.load(folder, SMALL)


def test_missing_folders_and_files_say_what_is_missing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere/manifest\.json: no such file"):
        checkpoints.load(tmp_path / "nowhere", SMALL)
    (folder / "vq_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"vq_model\.safetensors: cannot be read"):
        checkpoints.load(folder, SMALL)
    with pytest.raises(CheckpointError, match="ships no weights"):
        checkpoints.weights_dir("openviga", None)


def test_what_weights_expect_is_read_or_refused(folder: Path) -> None:
    assert checkpoints.load(folder, SMALL).expects == NOTHING_SAID
    edit_manifest(folder, expects={"prompt_psnr_min_db": 25})
    assert checkpoints.load(folder, SMALL).expects.prompt_psnr_min_db == 25
    edit_manifest(folder, expects={"camera": "wide"})
    with pytest.raises(CheckpointError, match="expects: camera: got str; allowed: a map"):
        checkpoints.load(folder, SMALL)
