"""Adapters that training leaves are served as they are: one folder from `train` to `serve`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sim_stream.errors import InvalidInput
from sim_stream.models import assembly, checkpoints
from sim_stream.models.assembly import Parts
from tests.small import SMALL, random_world_model, save_weights
from train import checkpoint, cli
from train.build import export_adapter
from train.config import LoraConfig, WorldModelTraining
from train.lora import add_adapters, merged_state


def test_trained_adapters_load_as_a_part_and_give_the_trained_weights(tmp_path: Path) -> None:
    base, config = random_world_model(), LoraConfig(rank=4)
    save_weights(tmp_path / "base", world_model=base.bfloat16())  # as training freezes it
    trained = add_adapters(random_world_model(), config)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
                assert "lora_" in name or parameter.ndim == 1
    state = {f"model.{name}": value for name, value in trained.state_dict().items()}
    checkpoint.write(tmp_path / "runs" / "world-model", 1, {"model": state, "ema": None}, keep=1)
    stage = WorldModelTraining(frames=2, lora=config)
    export_adapter(SMALL, tmp_path / "runs", stage, tmp_path / "adapter")

    dtypes = dict.fromkeys(checkpoints.PARTS, torch.float32)
    parts, cpu = Parts(adapter=tmp_path / "adapter"), torch.device("cpu")
    served = assembly.load(SMALL, tmp_path / "base", parts, device=cpu, dtypes=dtypes)
    expected = merged_state(trained)
    found = served.world_model.state_dict()
    assert found.keys() == expected.keys()
    changed = 0
    for name, weight in found.items():
        # The base is stored as fp16, and so is what is merged into it: one rounding of 2^-11 each.
        torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=2**-10)
        changed += not torch.equal(weight, base.state_dict()[name].float())
    assert changed == len(found)


def test_a_world_model_without_adapters_has_none_to_export(tmp_path: Path) -> None:
    command = ["export-adapter", "--preset", "pocket", "--runs", str(tmp_path), "--out"]
    with pytest.raises(InvalidInput, match="preset: got pocket; allowed: one whose world model"):
        cli.export(cli.parser().parse_args([*command, str(tmp_path / "out")]))
