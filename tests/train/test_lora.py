"""LoRA on the world model: the paper's counts, PEFT's file format, merging."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from torch import Tensor, nn

from sim_stream.config import OPENVIGA
from sim_stream.layout import FrameLayout
from sim_stream.models.world_model import WorldModel
from tests.small import SMALL, random_world_model
from train.config import LoraConfig
from train.estimate import count
from train.lora import add_adapters, is_norm, merged_state, save_adapters
from train.world_model import WorldModelNet

RANK_4 = LoraConfig(rank=4, alpha=8)


def adapted(seed: int = 1) -> WorldModel:
    """With adapters that do something: B starts at zero."""
    model = add_adapters(random_world_model(), RANK_4)
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.1)
        elif is_norm(name):
            nn.init.uniform_(parameter, 0.5, 1.5)
    return model.eval()


@torch.no_grad()
def logits(model: nn.Module, ids: Tensor) -> tuple[Tensor, Tensor]:
    hidden = model(ids)
    return model.vision_head(hidden).float(), model.lm_head(hidden).float()


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(0, 250, (2, 20), generator=torch.Generator().manual_seed(0))


def test_the_papers_adapters_count_exactly_as_it_says() -> None:
    """ "6.97B total model parameters, with only 2.39% of these being fine-tuneable"."""
    with torch.device("meta"):
        model = WorldModel(OPENVIGA.world_model)
    add_adapters(model, LoraConfig())
    found = count(model)
    assert found == {"total": 6_973_755_392, "trainable": 166_400_000}
    assert round(100 * found["trainable"] / found["total"], 2) == 2.39
    for name, parameter in model.named_parameters():
        wanted = torch.float32 if parameter.requires_grad else torch.bfloat16
        assert parameter.dtype == wanted, name
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    for part in ("embed_tokens", "vte", "lm_head", "vision_head"):
        assert any(part in name and "lora_" in name for name in trained)
    assert "norm.weight" in trained and "layers.31.input_layernorm.weight" in trained


def test_fresh_adapters_change_nothing(ids: Tensor) -> None:
    plain = random_world_model().to(torch.bfloat16).float()
    fresh = add_adapters(random_world_model(), RANK_4).eval()
    with torch.autocast("cpu", torch.bfloat16):
        for a, b in zip(logits(fresh, ids), logits(plain, ids), strict=True):
            assert torch.equal(a, b)


def test_merged_and_unmerged_adapters_give_the_same_logits(ids: Tensor) -> None:
    model = adapted()
    merged = WorldModel(SMALL.world_model)
    merged.load_state_dict(merged_state(model))
    model.float()  # the same arithmetic on both sides; frozen weights are bf16 values
    for a, b in zip(logits(merged.eval(), ids), logits(model, ids), strict=True):
        # One matrix product against two: fp32 rounding.
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    untouched = random_world_model().to(torch.bfloat16).float()
    assert (logits(untouched, ids)[0] - logits(merged, ids)[0]).abs().max() > 0.1


def test_the_folder_is_pefts_own_format(ids: Tensor, tmp_path: Path) -> None:
    model = adapted()
    save_adapters(model.state_dict(), RANK_4, tmp_path)
    base = random_world_model().to(torch.bfloat16).float()
    loaded = peft.PeftModel.from_pretrained(base, str(tmp_path)).eval()
    inner = loaded.base_model.model
    model.float()
    for a, b in zip(logits(inner, ids), logits(model, ids), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_with_and_without_actions_adapters_get_gradients_and_frozen_weights_none() -> None:
    for actions in (0, 2):
        preset = replace(SMALL, actions_per_frame=actions, prompt="" if actions else "text")
        layout = FrameLayout.of(preset, prompt_length=0 if actions else 3)
        model = add_adapters(random_world_model(preset).train(), RANK_4)
        net = WorldModelNet(model, layout, checkpointing=True)
        length = layout.context_length(2)
        ids = torch.randint(0, 8, (1, length))
        with torch.autocast("cpu", torch.bfloat16):
            net.losses(ids, ends=True).mean().backward()
        got = {name for name, p in model.named_parameters() if p.grad is not None}
        assert all("lora_" in name or is_norm(name) for name in got)
        assert any("vision_head" in name for name in got)
        assert not any("lm_head" in name for name in got)  # no text is predicted
        assert any("embed_tokens" in name for name in got) == (actions == 0)


def test_activation_checkpointing_changes_no_gradient() -> None:
    layout = FrameLayout.of(SMALL, prompt_length=0)
    ids = torch.randint(0, 8, (1, layout.context_length(2)))
    found = []
    for checkpointing in (False, True):
        net = WorldModelNet(random_world_model().train(), layout, checkpointing=checkpointing)
        net.losses(ids).mean().backward()
        found.append({k: p.grad for k, p in net.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for key, grad in found[0].items():
        assert torch.equal(found[1][key], grad), key
