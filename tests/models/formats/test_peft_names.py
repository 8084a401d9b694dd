"""Patterns and lists of names by peft's rules: the same scales, ranks and logits as peft's."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from sim_stream.errors import CheckpointError
from sim_stream.models.formats import peft_adapter
from tests.models.formats.test_peft_adapter import CLOSE, LINEARS, stirred
from tests.small import SMALL, random_world_model, with_adapter

CONFIG = SMALL.world_model
Q0 = "model.layers.0.self_attn.q_proj"
WRITTEN = "adapter_config.json"
# peft 0.21 asks transformers 5.23 by an old name, and warns of patterns that name nothing.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*did not match any targeted module.*:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.*eva_config.*"),
]


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
        )
    )


def saved(folder: Path, **options: Any) -> Path:
    """An adapter of that configuration as peft saves it."""
    given = {"r": 4, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"], **options}
    model = stirred(get_peft_model(llama(), LoraConfig(**given)))
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def edited(folder: Path, **options: Any) -> Path:
    config = json.loads((folder / WRITTEN).read_text())
    (folder / WRITTEN).write_text(json.dumps({**config, **options}))
    return folder


@torch.no_grad()
def require_pefts_logits(folder: Path) -> None:
    """Both read the same files."""
    theirs = PeftModel.from_pretrained(llama(), folder).eval()
    ours = random_world_model()
    own = {key.removeprefix("model."): w.clone() for key, w in llama().state_dict().items()}
    ours.load_state_dict(own, strict=False)
    ids = torch.arange(9)[None] % 8
    vision = torch.zeros_like(ids, dtype=torch.bool)
    base = ours.text_logits(ours(ids, vision))
    with_adapter(ours, peft_adapter.read(folder))
    logits = ours.text_logits(ours(ids, vision))
    assert (logits - base).abs().max() > 0.05
    torch.testing.assert_close(logits, theirs(input_ids=ids).logits, **CLOSE)


# The forms of peft's documentation and tests, and of configurations that people publish: short
# names, parts of a path, whole names, anchors, alternatives, classes, repeats, several patterns.
FORMS: dict[str, dict[str, Any]] = {
    "a short name": {"alpha_pattern": {"q_proj": 32}},
    "a part of the path": {"alpha_pattern": {"layers.0.self_attn.q_proj": 32}},
    "the whole name": {"alpha_pattern": {Q0: 32}},
    "the whole name, anchored": {"alpha_pattern": {f"^{Q0}": 32}},
    "escaped dots": {"alpha_pattern": {Q0.replace(".", r"\."): 32}},
    "an expression": {"alpha_pattern": {r".*\.layers\.0\..*(q_proj|v_proj)": 32}},
    "an expression from the start": {"alpha_pattern": {r"^model\.layers\.[01]\..*q_proj": 32}},
    "a class of layers": {"alpha_pattern": {r"model.layers.\d+.self_attn.v_proj": 1}},
    "a repeat": {"alpha_pattern": {r"layers\.\d{1,2}\.self_attn\.(q|v)_proj": 12}},
    "a lookahead": {"alpha_pattern": {r"layers\.(?!0)\d+\.self_attn\.q_proj": 12}},
    "an end of a word": {"alpha_pattern": {"proj": 32, "_proj": 32, ".*v_proj": 16}},
    "a back reference": {"alpha_pattern": {r"(l)ayers.0.se\3f_attn.q_proj": 32}},
    "the first of several": {"alpha_pattern": {"layers.0.self_attn.q_proj": 32, "q_proj": 2}},
    "a fraction": {"alpha_pattern": {"q_proj": 2.5}},
    "nothing": {"alpha_pattern": {}, "rank_pattern": {}},
    "no module": {"alpha_pattern": {"model.layers.7.self_attn.q_proj": 32, "k_proj": 3}},
    "a rank by the whole name": {"rank_pattern": {Q0: 2}},
    "a rank by a short name": {"rank_pattern": {"q_proj": 8, "up_proj": 1}},
    "both": {"rank_pattern": {Q0: 2}, "alpha_pattern": {Q0: 16}},
    "both, rslora": {"rank_pattern": {Q0: 2}, "alpha_pattern": {Q0: 16}, "use_rslora": True},
    "every module by name, as EVA writes them": {
        "rank_pattern": {
            f"model.layers.{i}.self_attn.{p}": r
            for i, p, r in ((0, "q_proj", 1), (0, "v_proj", 6), (1, "q_proj", 3), (1, "v_proj", 2))
        },
    },
    "all linear layers": {"target_modules": "all-linear", "alpha_pattern": {"down_proj": 9}},
    "targets by an expression": {"target_modules": r".*\.(q_proj|mlp\..*_proj)"},
    "as unsloth targets": {
        "target_modules": r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|k_proj).*?)"
        r"|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:(?:q_proj|up_proj)))",
        "alpha_pattern": {"up_proj": 7},
    },
    "one layer": {"layers_to_transform": 1, "alpha_pattern": {"q_proj": 9}},
    "layers of a pattern": {"layers_to_transform": [0], "layers_pattern": "layers"},
    "layers of patterns": {"layers_to_transform": [1], "layers_pattern": ["h", "layers"]},
    "a module left out": {"exclude_modules": ["layers.0.self_attn.q_proj"]},
    "modules left out": {"exclude_modules": r".*\.1\..*v_proj", "alpha_pattern": {"v_proj": 9}},
    "whole modules": {"modules_to_save": ["norm", "lm_head"], "target_modules": LINEARS},
}


@pytest.mark.parametrize("options", FORMS.values(), ids=FORMS.keys())
def test_any_form_that_peft_takes_gives_pefts_logits(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    require_pefts_logits(saved(tmp_path, **options))


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj"]},
        {"target_modules": None},
        {"target_modules": r"model\.layers\.0\..*(q|v)_proj"},
        {"exclude_modules": ["v_proj"]},
        {"layers_to_transform": [1]},
        {"layers_to_transform": 0, "layers_pattern": "layers"},
        {"layers_to_transform": []},
        {"modules_to_save": ["v_proj"]},
    ],
)
def test_what_a_file_holds_beyond_its_configuration_is_left_out_by_name(
    tmp_path: Path, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """As peft does, which does not say so."""
    saved(tmp_path, target_modules=["q_proj", "v_proj", "up_proj"])
    if "modules_to_save" in options:
        # peft wants the whole module in the file then.
        tensors = load_file(tmp_path / "adapter_model.safetensors")
        for i in range(CONFIG.num_layers):
            key = f"base_model.model.model.layers.{i}.self_attn.v_proj"
            tensors = {k: w for k, w in tensors.items() if not k.startswith(key)}
            tensors[f"{key}.weight"] = torch.randn(32, 32) * 0.1
        save_file(tensors, tmp_path / "adapter_model.safetensors")
    require_pefts_logits(edited(tmp_path, **options))
    left_out = [line for line in caplog.messages if "is left out: target_modules" in line]
    assert bool(left_out) == (options.keys() != {"modules_to_save"} and options != NOTHING)


NOTHING: dict[str, Any] = {"layers_to_transform": []}


def test_a_pattern_that_names_no_module_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = saved(tmp_path, alpha_pattern={"k_proj": 3, "q_proj": 2}, rank_pattern={"x": 9})
    said = ["rank_pattern 'x' names no module of it: ignored"]
    said.append("alpha_pattern 'k_proj' names no module of it: ignored")
    with caplog.at_level(logging.WARNING):
        peft_adapter.read(folder)
    assert caplog.messages == [f"adapter {tmp_path.name}: {line}" for line in said]
    assert peft_adapter.describe(folder)["ignored"] == said


@pytest.mark.parametrize("off", [None, False, [], {}], ids=repr)
@pytest.mark.parametrize(
    "option",
    [
        *("fan_in_fan_out", "use_dora", "lora_bias", "use_qalora", "use_rslora", "bias"),
        *("megatron_config", "trainable_token_indices", "layer_replication", "target_parameters"),
        *("alora_invocation_tokens", "rank_pattern", "alpha_pattern", "modules_to_save"),
        *("exclude_modules", "layers_to_transform", "layers_pattern", "use_bdlora", "kasa_config"),
        *("init_lora_weights", "loftq_config", "eva_config", "corda_config", "velora_config"),
    ],
)
def test_null_false_and_empty_all_mean_off(plain: Path, option: str, off: object) -> None:
    adapter = peft_adapter.read(edited(plain, **{option: off}))
    assert {u.scale for u in adapter.updates.values()} == {1.0}  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("adapter"))


@pytest.fixture
def plain(trained: Path, tmp_path: Path) -> Path:
    """One to edit."""
    for file in trained.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"use_dora": True}, "use_dora is True, allowed: None, False"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is True"),
        ({"bias": "lora_only"}, "bias is 'lora_only'"),
        ({"lora_bias": True}, "lora_bias is True"),
        ({"target_parameters": ["mlp.experts"]}, "target_parameters is"),
        ({"trainable_token_indices": [3]}, r"trainable_token_indices is \[3\]"),
        ({"layer_replication": [[0, 1]]}, "layer_replication is"),
        ({"init_lora_weights": "corda"}, "init_lora_weights is 'corda'"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'"),
        ({"init_lora_weights": "OLoRA"}, "init_lora_weights is 'OLoRA'"),
        ({"use_rslora": "false"}, "use_rslora is 'false'"),
        ({"rank_pattern": {"*.q_proj": 4}}, r"rank_pattern: .*q_proj.* is no regular expression"),
        ({"alpha_pattern": {"q_proj\\": 4}}, r"alpha_pattern: .* is no regular expression"),
        ({"alpha_pattern": {"q_proj": None}}, "alpha None"),
        ({"alpha_pattern": {"q_proj": True}}, "alpha True"),
        ({"alpha_pattern": {"q_proj": 1e300}}, r"alpha 1e\+300"),
        ({"alpha_pattern": {"q_proj": "8"}}, "alpha 8"),
        ({"rank_pattern": {"q_proj": 3}}, "has rank 4; the configuration says r 3"),
        ({"target_modules": [1]}, r"target_modules is \[1\], allowed: names"),
        ({"target_modules": "("}, "target_modules: .* is no regular expression"),
        ({"layers_to_transform": ["0"]}, r"layers_to_transform is \['0'\]"),
        ({"alpha_pattern": {f"q{i}": 1 for i in range(10_001)}}, "10,001 patterns"),
    ],
)
def test_what_is_no_plain_lora_is_refused_by_name(
    plain: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(CheckpointError, match=said):
        peft_adapter.read(edited(plain, **options))


@pytest.mark.parametrize("pattern", ["(.*)*(.*)*(.*)*x", "(..|.)*x", "(.|.|_)+y"])
def test_a_pattern_that_takes_years_is_refused_within_seconds(
    plain: Path, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sim_stream.models.formats.peft_names.TIMEOUT_S", 1.0)
    start_s = time.monotonic()
    with pytest.raises(CheckpointError, match=r"alpha_pattern: .* takes longer than 1 s to match"):
        peft_adapter.read(edited(plain, alpha_pattern={pattern: 2}))
    assert time.monotonic() - start_s < 60


def test_an_option_that_nobody_knows_is_named_and_ignored_as_peft_does(
    plain: Path, caplog: pytest.LogCaptureFixture
) -> None:
    peft_adapter.read(edited(plain, some_group_size=16, something_off=None))
    assert "option some_group_size is not known: ignored" in caplog.text
    assert "something_off" not in caplog.text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: torch.zeros(0), r"is empty, of shape \(0,\): saved by a process"),
        (lambda w: w[None], "is of shape .*, no matrix"),
        (lambda w: w.to(torch.int8), "is torch.int8, expected"),
    ],
)
def test_tensors_that_make_no_update_are_named(
    plain: Path, change: Callable[[torch.Tensor], torch.Tensor], said: str
) -> None:
    file = plain / "adapter_model.safetensors"
    save_file({key: change(w).contiguous() for key, w in load_file(file).items()}, file)
    with pytest.raises(CheckpointError, match=said):
        peft_adapter.read(plain)


def test_a_pickle_alone_says_what_to_do(plain: Path) -> None:
    (plain / "adapter_model.safetensors").rename(plain / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin is a pickle: save it"):
        peft_adapter.read(plain)


@pytest.mark.parametrize("start", ["eva", "gaussian", "Gaussian", "orthogonal", False])
def test_how_the_halves_began_does_not_matter_where_the_base_is_as_it_was(
    plain: Path, start: object
) -> None:
    require_pefts_logits(edited(plain, init_lora_weights=start))
