"""Hugging Face Llama folders: saved by transformers in shards, the same logits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from sim_stream.config import OPENVIGA
from sim_stream.errors import CheckpointError, InvalidInput
from sim_stream.models import checkpoints
from sim_stream.models.conversion import convert, faults_of
from sim_stream.models.formats import hf_llama, identify, own
from sim_stream.models.world_model import WorldModel
from tests.small import SMALL

CONFIG = replace(SMALL.world_model, text_vocab_size=40, num_layers=3)
PRESET = replace(SMALL, world_model=CONFIG)


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=CONFIG.text_vocab_size,
            hidden_size=CONFIG.hidden_size,
            intermediate_size=CONFIG.intermediate_size,
            num_hidden_layers=CONFIG.num_layers,
            num_attention_heads=CONFIG.num_heads,
            rms_norm_eps=CONFIG.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": CONFIG.rope_theta},
            initializer_range=0.2,
            tie_word_embeddings=False,
        )
    ).eval()


@pytest.fixture
def folder(llama: LlamaForCausalLM, tmp_path: Path) -> Path:
    llama.save_pretrained(tmp_path / "llama", max_shard_size="30KB")
    assert len(list((tmp_path / "llama").glob("*.safetensors"))) > 2
    return tmp_path / "llama"


@pytest.fixture
def vision(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    shape = CONFIG.vision_vocab_size, CONFIG.hidden_size
    tensors = {name: torch.randn(shape) for name in ("vte.weight", "vision_head.weight")}
    save_file(tensors, tmp_path / "vision.safetensors")
    return tmp_path / "vision.safetensors"


@torch.no_grad()
def test_converted_it_gives_transformers_own_logits(
    llama: LlamaForCausalLM, folder: Path, vision: Path, tmp_path: Path
) -> None:
    manifest = convert([folder, vision], tmp_path / "out", preset=PRESET)
    model = checkpoints.load_part(tmp_path / "out", manifest, PRESET, "world_model")
    assert isinstance(model, WorldModel)
    ids = torch.randint(0, CONFIG.text_vocab_size, (2, 13))
    hidden = model(ids, torch.zeros_like(ids, dtype=torch.bool))
    # fp32 sums in other orders; logits are of order 1.
    torch.testing.assert_close(
        model.text_logits(hidden), llama(input_ids=ids).logits, atol=2e-5, rtol=2e-5
    )
    stored = load_file(vision)
    assert torch.equal(model.vision_head.weight, stored["vision_head.weight"])
    entry = manifest["files"]["world_model"]
    assert (entry["rope"], entry["transforms"]) == ("halves", ["`model.` taken off"])
    assert {"config.json", "vision.safetensors"} < {file["file"] for file in entry["sources"]}


def test_the_text_model_alone_is_told_what_it_lacks(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        convert([folder], tmp_path / "out", preset=PRESET)
    assert "2 faults" in str(caught.value)
    assert "missing vte.weight" in str(caught.value)
    assert "missing vision_head.weight" in str(caught.value)


def test_a_tensor_that_comes_twice_is_refused(folder: Path, vision: Path, tmp_path: Path) -> None:
    tensors = load_file(vision) | {"norm.weight": torch.ones(CONFIG.hidden_size)}
    save_file(tensors, vision)
    with pytest.raises(CheckpointError, match=r"1 fault: norm\.weight comes 2 times"):
        convert([folder, vision], tmp_path / "out", preset=PRESET)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_key_value_heads": 1}, "num_key_value_heads"),
        ({"attention_bias": True, "hidden_act": "gelu"}, "2 faults: hidden_act is 'gelu'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters"),
    ],
)
def test_a_configuration_that_is_not_ours_is_refused_by_name(
    folder: Path, options: dict[str, object], said: str
) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **options}))
    with pytest.raises(CheckpointError, match=said):
        hf_llama.read(folder)


def test_what_shapes_do_not_show_is_compared_with_the_preset(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"rms_norm_eps": 1e-5, "num_attention_heads": 4, "num_key_value_heads": 4}
    config["rope_parameters"]["rope_theta"] = 5e5
    (folder / "config.json").write_text(json.dumps(config))
    faults = faults_of([hf_llama.read(folder)], PRESET, "world_model")
    for said in ("num_heads is 4", "rms_norm_eps is 1e-05", "rope_theta is 500000.0"):
        assert any(fault.startswith(said) for fault in faults)


def test_every_tensor_of_a_7b_llama_is_one_of_ours() -> None:
    c = OPENVIGA.world_model
    with torch.device("meta"):
        llama = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=c.text_vocab_size,
                hidden_size=c.hidden_size,
                intermediate_size=c.intermediate_size,
                num_hidden_layers=c.num_layers,
                num_attention_heads=c.num_heads,
                tie_word_embeddings=False,
            )
        )
    theirs = {own.our_key(key): tuple(w.shape) for key, w in llama.state_dict().items()}
    ours = checkpoints.shapes_of(checkpoints.make_part(OPENVIGA, "world_model"))
    assert len(theirs) == len(llama.state_dict()) == 291
    assert ours == theirs | {name: ours[name] for name in ("vte.weight", "vision_head.weight")}


def test_shards_without_a_config_are_known_by_their_keys(folder: Path) -> None:
    (folder / "config.json").unlink()
    for path in (folder, folder / "model.safetensors.index.json"):
        source = identify.source_of(path)
        assert (source.kind, source.part) == (own.KIND, "world_model")
        assert (
            len(source.shapes) == len(checkpoints.make_part(PRESET, "world_model").state_dict()) - 2
        )


def test_an_index_that_names_a_missing_or_foreign_shard_is_refused(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    names = json.loads(index.read_text())
    names["weight_map"]["more"] = "../elsewhere.safetensors"
    index.write_text(json.dumps(names))
    with pytest.raises(CheckpointError, match=r"outside the folder \['\.\./elsewhere"):
        hf_llama.read(folder)


def test_an_unknown_model_is_named_with_what_is_known(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(CheckpointError, match=r"says 'mamba'; known: a diffusers VQModel folder"):
        identify.kind_of(folder)
    save_file({"conv.weight": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"tensors of no model known here \(conv\.weight"):
        identify.source_of(tmp_path / "other.safetensors")
    (tmp_path / "model.pt").write_bytes(b"PK\x03\x04...")
    with pytest.raises(CheckpointError, match="PyTorch pickle"):
        identify.kind_of(tmp_path / "model.pt")
    with pytest.raises(InvalidInput, match="an existing file or folder"):
        identify.kind_of(tmp_path / "nothing")
