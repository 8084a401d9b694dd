"""peft's adapters: trained and saved by peft, the same outputs, merged into a base."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from sim_stream.config import OPENVIGA
from sim_stream.errors import CheckpointError
from sim_stream.models import checkpoints
from sim_stream.models.formats import peft_adapter
from sim_stream.models.lora import Adapter, LowRank, Whole
from sim_stream.models.world_model import WorldModel
from tests.small import SMALL, random_world_model, with_adapter

CONFIG = SMALL.world_model
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# The paper's combination (facts/models.md part 4).
TARGETS = [*LINEARS, "embed_tokens", "vte", "lm_head", "vision_head"]
NORMS = ["input_layernorm", "post_attention_layernorm", "norm"]
# bf16-free fp32 sums in another order; outputs are of order 1.
CLOSE = {"atol": 2e-5, "rtol": 2e-5}


class Called(nn.Module):
    """peft wants `forward` to be the whole: ids -> both heads."""

    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids_BS: Tensor, vision_BS: Tensor) -> Tensor:
        hidden = self.model(ids_BS, vision_BS)
        heads = self.model.vision_head(hidden), self.model.text_logits(hidden)
        return torch.cat(heads, -1)


def inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    return torch.randint(0, 8, (2, 9)), torch.arange(9)[None].repeat(2, 1) >= 3


def stirred(model: PeftModel) -> PeftModel:
    """As if trained: no half of it is zero, no norm one."""
    torch.manual_seed(2)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.1)
    return model.eval()


def saved(folder: Path, **options: Any) -> tuple[Path, PeftModel]:
    """A peft model over our base, and its adapter as peft saves it."""
    config = LoraConfig(
        **{"r": 4, "lora_alpha": 6, "target_modules": TARGETS, "modules_to_save": NORMS, **options}
    )
    model = stirred(get_peft_model(Called(random_world_model()), config))
    model.save_pretrained(folder, save_embedding_layers=False)
    # Our module is `Called.model`, so keys have the `model.` of Hugging Face's causal models.
    return folder, model


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PeftModel]:
    return saved(tmp_path_factory.mktemp("peft") / "adapter")


@pytest.fixture
def changed(trained: tuple[Path, PeftModel], tmp_path: Path) -> Callable[..., Path]:
    """A copy of the adapter with other options or tensors."""

    def change(tensors: dict[str, Tensor] | None = None, **options: object) -> Path:
        config = json.loads((trained[0] / "adapter_config.json").read_text())
        (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **options}))
        own = load_file(trained[0] / "adapter_model.safetensors")
        save_file({**own, **(tensors or {})}, tmp_path / "adapter_model.safetensors")
        return tmp_path

    return change


def outputs(model: WorldModel) -> Tensor:
    return Called(model)(*inputs())


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 3}},
        {"alpha_pattern": {"vte": 1, "lm_head": 9}},
        {"target_modules": ["q_proj", "v_proj"], "modules_to_save": None},
    ],
)
def test_merged_it_gives_pefts_own_outputs(tmp_path: Path, options: dict[str, Any]) -> None:
    folder, theirs = saved(tmp_path / "adapter", **options)
    model = random_world_model()
    base = outputs(model)
    ours = outputs(with_adapter(model, peft_adapter.read(folder)))
    assert (ours - base).abs().max() > 0.05
    torch.testing.assert_close(ours, theirs(*inputs()), **CLOSE)


@torch.no_grad()
def test_merged_as_a_base_is_streamed_it_is_the_same(trained: tuple[Path, PeftModel]) -> None:
    adapter = peft_adapter.read(trained[0])
    streamed, base = WorldModel(CONFIG), random_world_model().state_dict()
    shapes = {key: tuple(w.shape) for key, w in base.items()}
    checkpoints.fill(streamed, adapter.merged(iter(base.items()), shapes), "merged")
    assert torch.equal(
        outputs(streamed.eval()), outputs(with_adapter(random_world_model(), adapter))
    )
    torch.testing.assert_close(outputs(streamed), trained[1](*inputs()), **CLOSE)


@pytest.fixture
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


# peft 0.21 asks transformers 5.23 by an old name.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@torch.no_grad()
def test_an_adapter_of_transformers_llama_fits_ours(
    llama: LlamaForCausalLM, tmp_path: Path
) -> None:
    """With the copies of the base's embeddings that peft saves, which must be our base's."""
    model = random_world_model()
    own = {k.removeprefix("model."): w.clone() for k, w in llama.state_dict().items()}
    model.load_state_dict(own, strict=False)
    config = LoraConfig(r=4, target_modules=[*LINEARS, "lm_head", "embed_tokens"])
    theirs = stirred(get_peft_model(llama, config))
    theirs.save_pretrained(tmp_path, save_embedding_layers=True)
    adapter = peft_adapter.read(tmp_path)
    assert adapter.copies.keys() == {"embed_tokens.weight", "lm_head.weight"}
    with_adapter(model, adapter)
    ids = inputs()[0]
    hidden = model(ids, torch.zeros_like(ids, dtype=torch.bool))
    torch.testing.assert_close(model.text_logits(hidden), theirs(input_ids=ids).logits, **CLOSE)
    with pytest.raises(CheckpointError, match=r"another base: embed_tokens\.weight differs"):
        with_adapter(random_world_model(seed=1), adapter)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"use_dora": True, "bias": "all"}, "2 faults: bias is 'all'.*; use_dora is True"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"r": 8}, "has rank 4; the configuration says r 8"),
        ({"lora_alpha": None}, "alpha None"),
        ({"rank_pattern": ["q_proj"]}, r"rank_pattern is \['q_proj'\]"),
    ],
)
def test_an_adapter_that_is_no_plain_lora_is_refused_by_name(
    changed: Callable[..., Path], options: dict[str, object], said: str
) -> None:
    with pytest.raises(CheckpointError, match=said):
        peft_adapter.read(changed(**options))


def test_tensors_that_mean_nothing_are_all_named(changed: Callable[..., Path]) -> None:
    q = "base_model.model.model.layers.0.self_attn.q_proj"
    folder = changed(
        {
            f"{q}.lora_magnitude_vector": torch.ones(2),
            "elsewhere.weight": torch.ones(2),
            f"{q}.lora_A.weight": torch.ones(5, 32),
        }
    )
    with pytest.raises(CheckpointError) as caught:
        peft_adapter.read(folder)
    for said in ("3 faults", "lora_magnitude_vector", "unknown elsewhere", "make no product"):
        assert said in str(caught.value)


def test_an_adapter_of_another_base_is_refused(changed: Callable[..., Path]) -> None:
    adapter = Adapter(
        updates={
            "layers.7.mlp.up_proj.weight": Whole(weight=torch.ones(2)),
            "vte.weight": LowRank(a_RI=torch.ones(2, 5), b_OR=torch.ones(7, 2), scale=1.0),
        },
        name="other",
    )
    with pytest.raises(CheckpointError, match=r"no layers\.7.*; vte\.weight is \(256, 32\) in"):
        with_adapter(random_world_model(), adapter)
    marked = peft_adapter.read(changed(base_sha256="aa"))
    with pytest.raises(CheckpointError, match="trained on weights aa, not on bb"):
        peft_adapter.check_base(marked, "bb")
    peft_adapter.check_base(marked, "aa")


def test_a_value_that_is_no_number_is_refused(changed: Callable[..., Path]) -> None:
    key = "base_model.model.model.norm.weight"
    with pytest.raises(CheckpointError, match=r"norm\.weight has values from nan"):
        peft_adapter.read(changed({key: torch.full((32,), float("nan"))}))


def test_the_papers_adapter_has_the_papers_size() -> None:
    """Rank 64 on everything and whole norms: 166,400,000 (facts/models.md part 4)."""
    shapes = checkpoints.shapes_of(checkpoints.make_part(OPENVIGA, "world_model"))
    updates: dict[str, LowRank | Whole] = {}
    with torch.device("meta"):
        for key, shape in shapes.items():
            if len(shape) == 1:
                updates[key] = Whole(weight=torch.empty(shape))
            else:
                a, b = torch.empty(64, shape[1]), torch.empty(shape[0], 64)
                updates[key] = LowRank(a_RI=a, b_OR=b, scale=1.0)
    adapter = Adapter(updates=updates, name="paper")
    adapter.check(shapes)
    assert adapter.parameters == 166_400_000
