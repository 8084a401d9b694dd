"""Adapters that training leaves are served as they are: one folder from `train` to `serve`."""

from __future__ import annotations

from pathlib import Path

import torch

from sim_stream.models import assembly, checkpoints
from sim_stream.models.assembly import Parts
from tests.small import SMALL, random_world_model, save_weights
from train.config import LoraConfig
from train.lora import add_adapters, merged_state, save_adapters


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
    save_adapters(trained, config, tmp_path / "adapter")

    dtypes = dict.fromkeys(checkpoints.PARTS, torch.float32)
    parts, cpu = Parts(adapter=tmp_path / "adapter"), torch.device("cpu")
    served = assembly.load(SMALL, tmp_path / "base", parts, device=cpu, dtypes=dtypes)
    expected = merged_state(trained)
    state = served.world_model.state_dict()
    assert state.keys() == expected.keys()
    changed = 0
    for name, weight in state.items():
        # The base is stored as fp16, and so is what is merged into it: one rounding of 2^-11 each.
        torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=2**-10)
        changed += not torch.equal(weight, base.state_dict()[name].float())
    assert changed == len(state)
