"""Low-rank adapters on the world model (paper Sec. III-C c), through PEFT.

Adapters of one rank sit on every linear and embedding layer and on both heads, and every RMSNorm
weight is trained in full: at rank 64 that is 166,400,000 trainable of 6,973,755,392. Frozen weights
are bf16, what is trained is fp32. Folders are in PEFT's own format.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sim_stream.errors import Unavailable
from sim_stream.models.world_model import WorldModel
from train.config import LoraConfig

TARGETS = (
    *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    *("embed_tokens", "vte", "lm_head", "vision_head"),
)
NORMS = ("input_layernorm", "post_attention_layernorm", "norm")
ADAPTER = "default"


def peft_config(config: LoraConfig) -> Any:
    """PEFT's own configuration of these adapters. Raises Unavailable without PEFT."""
    try:
        import peft
    except ImportError as error:
        raise Unavailable("LoRA needs peft: pip install 'sim-stream[train]'") from error
    return peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(TARGETS),
        modules_to_save=list(NORMS),
    )


def is_norm(name: str) -> bool:
    return name.endswith(tuple(f"{norm}.weight" for norm in NORMS))


def add_adapters(model: WorldModel, config: LoraConfig) -> WorldModel:
    """Freezes the model as bf16 and adds trainable adapters, in place. Works on the meta device.

    Norms are trained where they are, not as PEFT's copies of them, which would count them twice.
    """
    import peft

    wanted = peft_config(config)
    wanted.modules_to_save = None
    model.to(torch.bfloat16)
    on_meta = next(model.parameters()).is_meta
    with torch.device("meta" if on_meta else "cpu"):
        peft.inject_adapter_in_model(wanted, model, ADAPTER, low_cpu_mem_usage=on_meta)
    for name, parameter in model.named_parameters():
        trained = "lora_" in name or is_norm(name)
        parameter.requires_grad_(trained)
        if trained:
            parameter.data = parameter.data.float()
    for embedding in (model.embed_tokens, model.vte):
        embedding.register_forward_hook(as_float)
    return model


def as_float(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
    """Keeps the residual stream fp32, as norms with fp32 weights need it."""
    return output.float()


def frozen_keys(model: nn.Module) -> frozenset[str]:
    return frozenset(name for name, p in model.named_parameters() if not p.requires_grad)


def adapter_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A model's state -> the tensors of PEFT's adapter file, under its names."""
    found = {}
    for name, value in state.items():
        if "lora_" in name or is_norm(name):
            key = name.replace(f".{ADAPTER}", "")
            found[f"base_model.model.{key}"] = value.detach().cpu().contiguous()
    return found


def save_adapters(state: Mapping[str, Tensor], config: LoraConfig, folder: Path) -> None:
    """A model's state -> `adapter_config.json`, `adapter_model.safetensors`, as PEFT loads them."""
    folder.mkdir(parents=True, exist_ok=True)
    peft_config(config).save_pretrained(str(folder))
    save_file(adapter_state(state), folder / "adapter_model.safetensors")


@torch.no_grad()
def merged_state(model: WorldModel) -> dict[str, Tensor]:
    """The plain world model's state with every adapter added to its weight, in fp32."""
    from peft.tuners.lora import LoraLayer

    layers: dict[str, Any] = {
        name: m for name, m in model.named_modules() if isinstance(m, LoraLayer)
    }
    state = {
        name.replace(".base_layer", ""): value.float()
        for name, value in model.state_dict().items()
        if "lora_" not in name
    }
    for name, layer in layers.items():
        delta: Tensor = layer.get_delta_weight(ADAPTER)
        state[f"{name}.weight"] = state[f"{name}.weight"] + delta.float()
    return state
