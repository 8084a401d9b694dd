"""Models from parts that lie in several places: what fits is joined, what does not is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from sim_stream.errors import CheckpointError, InvalidInput
from sim_stream.models import assembly, checkpoints
from sim_stream.models.assembly import INFLATE, Parts
from sim_stream.models.checkpoints import Loaded
from sim_stream.models.formats import peft_adapter
from tests.small import (
    SMALL,
    random_video_decoder,
    random_vq,
    random_world_model,
    save_weights,
    with_adapter,
)

DTYPES = dict.fromkeys(checkpoints.PARTS, torch.float32)


def load(weights: Path | None, **parts: Path) -> Loaded:
    return assembly.load(SMALL, weights, Parts(**parts), device=torch.device("cpu"), dtypes=DTYPES)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_weights(tmp_path_factory.mktemp("assembly") / "small-1")


@pytest.fixture(scope="module")
def parts(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each part, as a conversion of that part alone gives."""
    folders = {}
    for part in checkpoints.PARTS:
        folders[part] = folder = tmp_path_factory.mktemp("parts") / part
        folder.mkdir()
        (folder / f"{part}.safetensors").symlink_to(whole / f"{part}.safetensors")
        manifest = json.loads((whole / "manifest.json").read_text())
        manifest |= {"model_id": part, "files": {part: manifest["files"][part]}}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    return folders


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / "night-drives"
    config = LoraConfig(r=2, target_modules=["q_proj", "vision_head"], init_lora_weights=False)
    torch.manual_seed(0)
    get_peft_model(random_world_model(), config).save_pretrained(folder)
    return folder


def test_parts_give_the_same_models_and_hash_as_the_whole(
    whole: Path, parts: dict[str, Path]
) -> None:
    one = load(whole)
    many = load(
        None,
        vqgan=parts["vq_model"],
        world_model=parts["world_model"],
        video_decoder=parts["video_decoder"],
    )
    for part in checkpoints.PARTS:
        ours, theirs = getattr(one, part).state_dict(), getattr(many, part).state_dict()
        assert all(torch.equal(theirs[key], w) for key, w in ours.items())
    assert one.sha256 == many.sha256 == checkpoints.load(whole, SMALL).sha256
    assert (one.model_id, many.model_id) == ("small-1", "vq_model+world_model+video_decoder")
    assert not one.inflated and not many.inflated


def test_each_part_has_the_type_that_was_asked_for(whole: Path) -> None:
    dtypes = {**DTYPES, "world_model": torch.bfloat16}
    loaded = assembly.load(SMALL, whole, Parts(), device=torch.device("cpu"), dtypes=dtypes)
    assert loaded.world_model.norm.weight.dtype == torch.bfloat16
    assert loaded.video_decoder.quantize.embedding.weight.dtype == torch.float32


def test_a_missing_video_decoder_is_offered_to_be_inflated(parts: dict[str, Path]) -> None:
    there = {"vqgan": parts["vq_model"], "world_model": parts["world_model"]}
    with pytest.raises(CheckpointError, match=r"no video_decoder: .*--video-decoder inflate: untr"):
        load(None, **there)
    with pytest.raises(CheckpointError, match=r"holds no video decoder\. Give one with --video"):
        load(None, **there, video_decoder=parts["vq_model"])
    with pytest.raises(CheckpointError, match=r"no vq_model: .*Or give this part with --vqgan"):
        load(None)


@torch.no_grad()
def test_inflated_it_equals_the_image_decoder_and_is_said_loudly(
    parts: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    there = {"vqgan": parts["vq_model"], "world_model": parts["world_model"]}
    with caplog.at_level(logging.WARNING):
        loaded = load(None, **there, video_decoder=INFLATE)
    assert "NO VIDEO DECODER" in caplog.text
    assert loaded.inflated and loaded.model_id == "vq_model+world_model+inflated"
    ids_BTN = torch.randint(0, 32, (1, 3, 64))
    stills = loaded.vq_model.decode(ids_BTN[0])
    # Zero taps left and right of the middle one add exact zeros, in other kernels.
    torch.testing.assert_close(loaded.video_decoder(ids_BTN)[0], stills, atol=1e-5, rtol=1e-5)


def test_an_adapter_is_merged_on_the_way(whole: Path, adapter: Path) -> None:
    expected = random_world_model().half().float()  # as the folder stores it
    with_adapter(expected, peft_adapter.read(adapter))
    loaded = load(whole, adapter=adapter)
    state = loaded.world_model.state_dict()
    for key in ("layers.1.self_attn.q_proj.weight", "vision_head.weight"):
        assert not torch.equal(state[key], random_world_model().half().float().state_dict()[key])
    for key, weight in expected.state_dict().items():
        # The folder's half precision is merged in fp32 and rounded to half again: 11 bits.
        torch.testing.assert_close(state[key], weight, atol=1e-4, rtol=2**-10)
    assert loaded.model_id == "small-1+night-drives"
    assert loaded.sha256 != load(whole).sha256


def test_an_adapter_of_another_base_is_refused(whole: Path, adapter: Path, tmp_path: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"base_sha256": "aa"}))
    (tmp_path / "adapter_model.safetensors").symlink_to(adapter / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="trained on weights aa, not on"):
        load(whole, adapter=tmp_path)


def test_a_video_decoder_of_another_codebook_is_refused(whole: Path, tmp_path: Path) -> None:
    save_weights(tmp_path / "other", seed=5)
    with pytest.raises(CheckpointError, match=r"codebook is not the VQGAN's: \d+% of the codes"):
        load(whole, video_decoder=tmp_path / "other")


def test_the_pixel_range_is_kept_and_must_be_the_same(whole: Path, tmp_path: Path) -> None:
    vq_model, video_decoder = random_vq(), random_video_decoder()
    vq_model.pixel_range = video_decoder.pixel_range = "unit"
    save_weights(tmp_path / "unit", vq_model=vq_model, video_decoder=video_decoder)
    loaded = load(tmp_path / "unit")
    assert loaded.vq_model.pixel_range == loaded.video_decoder.pixel_range == "unit"
    assert load(tmp_path / "unit", video_decoder=INFLATE).video_decoder.pixel_range == "unit"
    with pytest.raises(CheckpointError, match="pixel range is signed, the VQGAN's unit"):
        load(tmp_path / "unit", video_decoder=whole)


def test_foreign_files_are_told_to_be_converted_first(whole: Path, tmp_path: Path) -> None:
    save_file({"encoder.a": torch.ones(1), "decoder.a": torch.ones(1)}, tmp_path / "a.safetensors")
    with pytest.raises(InvalidInput, match=r"sim-stream weights convert .*a\.safetensors --out"):
        load(whole, vqgan=tmp_path / "a.safetensors")
