"""`weights convert` and `verify`: what is written is what came in, complete or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from sim_stream.config import PAPER_PROMPT, POCKET, Preset
from sim_stream.errors import CheckpointError, InvalidInput
from sim_stream.models import checkpoints, conversion
from sim_stream.models.conversion import convert
from sim_stream.models.formats import lwm_params
from sim_stream.models.inspection import inspect
from sim_stream.models.verification import verify
from sim_stream.models.world_model import WorldModel
from tests.models.formats.flax_lwm import LWM, random_params, write_params
from tests.small import SMALL

# The paper's system, small: a text prompt and no actions.
PRESET: Preset = replace(
    SMALL,
    prompt=PAPER_PROMPT,
    actions_per_frame=0,
    world_model=replace(SMALL.world_model, text_vocab_size=320, num_layers=3),
)


@pytest.fixture(scope="module")
def release(spm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LWM's folder without its vqgan: `params` in bf16 and `tokenizer.model`."""
    folder = tmp_path_factory.mktemp("lwm") / "LWM-small"
    folder.mkdir()
    ids = np.zeros((1, 4), int)
    params = random_params(LWM(PRESET.world_model), ids, ids > 0)
    write_params(folder / "params", params, jnp.bfloat16)
    shutil.copy(spm, folder / "tokenizer.model")
    return folder


@pytest.fixture(scope="module")
def made(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "weights"
    convert([release], out, preset=PRESET, shard_bytes=30_000)
    return out


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "weights")


def edit(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_manifest_says_where_every_value_came_from(release: Path, made: Path) -> None:
    manifest = json.loads((made / "manifest.json").read_text())
    entry = manifest["files"]["world_model"]
    assert entry["sources"] == [
        {
            "file": "params",
            "bytes": (release / "params").stat().st_size,
            "sha256": sha256(release / "params"),
        }
    ]
    assert entry["transforms"] == [
        "layers taken apart on axis 0",
        "kernels transposed from (in, out) to (out, in)",
        "rope of q and k: rows from interleaved pairs to halves",
    ]
    assert (entry["rope"], entry["dtypes"]) == ("halves", {"bfloat16": 32})
    assert manifest["tokenizer"]["sha256"] == sha256(release / "tokenizer.model")
    assert manifest["prompt_ids"][0] == 1 and manifest["model_id"] == "LWM-small"


def test_shards_hold_every_tensor_once_and_as_it_was(release: Path, made: Path) -> None:
    manifest = checkpoints.read_manifest(made)
    shards = manifest["files"]["world_model"]["shards"]
    assert len(shards) > 5 and all(sha256(made / name) == shards[name] for name in shards)
    assert sorted(os.listdir(made)) == sorted(["manifest.json", *shards])
    stored = checkpoints.read_part(made, "world_model", manifest)
    source = dict(lwm_params.read(release / "params").tensors(PRESET))
    assert stored.keys() == source.keys()
    assert all(torch.equal(stored[key], w) for key, w in source.items())


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_part_is_loaded_into_the_type_that_is_asked_for(made: Path, dtype: torch.dtype) -> None:
    manifest = checkpoints.read_manifest(made)
    model = checkpoints.load_part(made, manifest, PRESET, "world_model", dtype=dtype)
    assert isinstance(model, WorldModel)
    assert {weight.dtype for weight in model.parameters()} == {dtype}
    assert model(torch.zeros(1, 3, dtype=torch.int64)).dtype == dtype


def test_verify_finds_nothing_wrong_with_what_convert_made(made: Path) -> None:
    report = verify(made, preset=PRESET)
    assert report["parts"]["world_model"]["parameters"] == sum(
        w.numel() for w in WorldModel(PRESET.world_model).parameters()
    )


@pytest.mark.parametrize("at", [-1, 2000])
def test_verify_finds_a_flipped_bit(folder: Path, at: int) -> None:
    path = folder / "world_model.00003.safetensors"
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"world_model\.00003\.safetensors: SHA-256"):
        verify(folder, preset=PRESET)


def test_verify_finds_a_missing_and_a_foreign_shard(folder: Path) -> None:
    (folder / "world_model.00002.safetensors").rename(folder / "elsewhere")
    with pytest.raises(CheckpointError, match=r"00002\.safetensors: cannot be read"):
        verify(folder, preset=PRESET)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    shards = files["world_model"]["shards"]
    shards["../elsewhere"] = shards.pop("world_model.00002.safetensors")
    files["world_model"]["sha256"] = checkpoints.joined_sha256(shards.values())
    edit(folder, files=files)
    with pytest.raises(CheckpointError, match=r"world_model\.shards is .*in the folder"):
        verify(folder, preset=PRESET)


def test_verify_finds_shards_left_out_and_named_as_if_complete(folder: Path) -> None:
    files = json.loads((folder / "manifest.json").read_text())["files"]
    shards = files["world_model"]["shards"]
    shards.popitem()
    files["world_model"]["sha256"] = checkpoints.joined_sha256(shards.values())
    edit(folder, files=files)
    with pytest.raises(CheckpointError, match=r"tensors do not match: missing"):
        verify(folder, preset=PRESET)


@pytest.mark.parametrize("ids", [[], [1, 1, 5], [5, 1], [5]])
def test_verify_finds_prompt_ids_without_exactly_one_bos(folder: Path, ids: list[int]) -> None:
    edit(folder, prompt_ids=ids)
    with pytest.raises(CheckpointError, match="prompt ids"):
        verify(folder, preset=PRESET)


def test_a_prompt_without_a_tokenizer_is_refused(release: Path, tmp_path: Path) -> None:
    shutil.copy(release / "params", tmp_path / "params")
    with pytest.raises(InvalidInput, match="sources: got no tokenizer"):
        convert([tmp_path / "params"], tmp_path / "out", preset=PRESET)
    out = tmp_path / "out"
    manifest = convert([tmp_path / "params", release / "tokenizer.model"], out, preset=PRESET)
    assert manifest["prompt_ids"]


def test_all_faults_come_before_anything_is_written(release: Path, tmp_path: Path) -> None:
    other = replace(PRESET, world_model=replace(PRESET.world_model, num_layers=4, hidden_size=64))
    with pytest.raises(CheckpointError, match=r"small's world_model: 41 faults: missing layers\.3"):
        convert([release], tmp_path / "out", preset=other)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_conversion_leaves_nothing_behind(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def save_two(tensors: object, path: Path) -> None:
        written.append(path)
        path.write_bytes(b"...")
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(conversion, "save_file", save_two)
    with pytest.raises(KeyboardInterrupt):
        convert([release], tmp_path / "out", preset=PRESET, shard_bytes=30_000)
    assert len(written) == 2 and list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_not_written_into(release: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(InvalidInput, match="a folder that is new or empty"):
        convert([release], tmp_path, preset=PRESET)
    assert os.listdir(tmp_path) == ["mine"]


def test_inspect_says_what_lies_in_an_lwm_folder_and_what_it_lacks(release: Path) -> None:
    params, tokenizer = inspect(release)
    assert (params["kind"], tokenizer["kind"]) == ("LWM params", "tokenizer")
    assert (params["part"], params["rope"]) == ("world_model", "interleaved")
    assert (params["layers"], params["dtypes"]) == ("stacked on axis 0", {"bfloat16": 14})
    assert params["preset"] is None and "closest_preset" in params
    assert "expected" in params["differs"]
    assert params["shapes"]["lm_head.weight"] == [320, 32]


def test_inspect_names_the_preset_and_pixel_range_that_fit() -> None:
    shipped = checkpoints.weights_dir("pocket", None)
    (report,) = inspect(shipped / "vq_model.safetensors")
    assert (report["preset"], report["part"], report["pixel_range"]) == (
        "pocket",
        "vq_model",
        "signed",
    )
    (report,) = inspect(shipped / "world_model.safetensors")
    assert (report["preset"], report["rope"]) == ("pocket", "halves")
    (report,) = inspect(shipped / "video_decoder.safetensors")
    assert (report["preset"], report["part"]) == ("pocket", "video_decoder")


def test_the_shipped_weights_survive_a_conversion_bit_for_bit(tmp_path: Path) -> None:
    shipped = checkpoints.weights_dir("pocket", None)
    parts = [shipped / f"{part}.safetensors" for part in checkpoints.PARTS]
    convert(parts, tmp_path / "out")
    assert verify(tmp_path / "out")["preset"] == "pocket"
    before, after = (checkpoints.load(f, POCKET) for f in (shipped, tmp_path / "out"))
    for part in checkpoints.PARTS:
        old, new = getattr(before, part).state_dict(), getattr(after, part).state_dict()
        assert all(torch.equal(new[key], w) for key, w in old.items())
