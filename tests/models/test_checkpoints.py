"""Weights folders: what was saved is what is loaded, and nothing else is."""

import json
import os
from collections.abc import Callable
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


BIG = 2**70
DEEP = json.loads("[" * 40 + "]" * 40)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_id": None}, "model_id is None"),
        ({"model_id": "\x1b[2Jpocket"}, r"model_id is '\\x1b\[2Jpocket'; allowed: printable"),
        ({"preset": ["pocket"]}, r"preset is \['pocket'\]"),
        ({"config": None}, "config is None; allowed: an object"),
        ({"config": 3}, "config is 3"),
        ({"prompt_ids": "1"}, "prompt_ids is '1'"),
        ({"prompt_ids": [1, -3]}, r"prompt_ids is \[1, -3\]"),
        ({"prompt_ids": [7, 8]}, "prompt_ids beyond the vocabulary of 8"),
        ({"prompt_ids": [True]}, "prompt_ids is"),
        ({"held_out": 5}, "held_out is 5"),
        ({"held_out": BIG}, "whole number beyond 64 bits"),
        ({"held_out": float("nan")}, "NaN is no number"),
        ({"held_out": DEEP}, "nested deeper than 32"),
        ({"made_by": "\ud800"}, "surrogates not allowed"),
        ({"files": []}, r"files is \[\]"),
        ({"files": {"vq_model": None}}, "files.vq_model is None; allowed: an object"),
        ({"files": {"vq_model": {}}}, "files.vq_model.sha256 is missing; .*parameters is missing"),
        ({"files": {"a": {}, "vq_model": {"sha256": 3, "parameters": "x"}}}, "files has 'a'.*is 3"),
    ],
)
def test_a_manifest_that_somebody_edited_is_refused_by_field(
    folder: Path, changes: dict[str, object], said: str
) -> None:
    edit_manifest(folder, **changes)
    with pytest.raises(CheckpointError, match=said) as caught:
        checkpoints.load(folder, SMALL)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("shards", [{"../x.safetensors": "0" * 64}, {"/etc/passwd": "0" * 64}, {}])
def test_shards_outside_the_folder_are_refused(folder: Path, shards: dict[str, str]) -> None:
    files = json.loads((folder / "manifest.json").read_text())["files"]
    files["vq_model"]["shards"] = shards
    edit_manifest(folder, files=files)
    with pytest.raises(CheckpointError, match=r"files\.vq_model\.shards is .*in the folder"):
        checkpoints.load(folder, SMALL)


def test_a_key_that_stands_twice_is_refused(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace("{", '{"preset": "openviga",', 1))
    with pytest.raises(CheckpointError, match="'preset' stands twice"):
        checkpoints.load(folder, SMALL)


@pytest.mark.parametrize("name", ["manifest.json", "vq_model.safetensors"])
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (os.mkfifo, "a FIFO, no regular file"),
        (os.mkdir, "a folder, no regular file"),
        (lambda path: os.symlink("/dev/zero", path), "a device, no regular file"),
        (lambda path: os.symlink("gone", path), r"a link to nowhere \(gone\)"),
        (lambda path: os.symlink(path, path), "cannot be read: Too many levels"),
    ],
)
def test_what_is_no_file_is_named_and_never_waited_for(
    folder: Path, name: str, make: Callable[[Path], None], said: str
) -> None:
    (folder / name).unlink()
    make(folder / name)
    with pytest.raises(CheckpointError, match=f"{name}: {said}"):
        checkpoints.load(folder, SMALL)


def test_a_link_to_a_file_is_followed(folder: Path, tmp_path: Path) -> None:
    """A hub's cache is made of them."""
    path = folder / "vq_model.safetensors"
    path.rename(tmp_path / "blob")
    path.symlink_to(tmp_path / "blob")
    assert checkpoints.load(folder, SMALL).model_id == "small-1"


def test_a_part_that_is_far_too_large_is_refused_before_it_is_hashed(folder: Path) -> None:
    os.truncate(folder / "vq_model.safetensors", 1 << 42)  # a hole: it takes no room
    with pytest.raises(CheckpointError, match=r"vq_model has 4,398,046,511,104 bytes; .* at most"):
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
