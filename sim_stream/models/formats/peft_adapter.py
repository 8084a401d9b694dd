"""peft's LoRA adapters: ``adapter_config.json`` and ``adapter_model.safetensors``.

Linear layers, embeddings and whole modules (``modules_to_save``) are understood; anything that
would make the update another one than s B A (DoRA, biases, ...) is refused by name. The rotary
convention of q and k must be the base's: Hugging Face's halves, ours as well. An adapter of LWM's
own interleaved weights does not exist in peft's form.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sim_stream.errors import CheckpointError
from sim_stream.models.formats import own, safetensors_files
from sim_stream.models.formats.source import check_values, count_dtypes, refuse
from sim_stream.models.lora import Adapter, LowRank, Whole

KIND = "peft adapter"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
BASE = ".base_layer.weight"  # peft saves adapted embeddings' own weights too, unless told not to
LOW_RANK = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<half>[AB])(\.weight)?")
# Options that would change the arithmetic, and the values under which they do not.
REQUIRED: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "use_dora": (False,),
    "lora_bias": (False,),
    "use_qalora": (False,),
    "megatron_config": (None,),
    "trainable_token_indices": (None,),
    "layer_replication": (None,),
    "alora_invocation_tokens": (None,),
    "target_parameters": (None,),
    "velora_config": (None,),
    "monteclora_config": (None,),
    "use_bdlora": (None,),
    "arrow_config": (None,),
    "kasa_config": (None,),
    # PiSSA, OLoRA and their like train on another base than the one that is given.
    "init_lora_weights": (True, False, "gaussian", "orthogonal"),
}


def read(folder: Path) -> Adapter:
    """Raises CheckpointError, naming everything in it that is no plain LoRA."""
    config = safetensors_files.read_json(folder / CONFIG)
    refuse(f"{folder / CONFIG}", config_faults(config))
    files = safetensors_files.read(folder, (folder / WEIGHTS,))
    faults: list[str] = []
    halves: dict[str, dict[str, Tensor]] = {}
    updates: dict[str, LowRank | Whole] = {}
    copies: dict[str, Tensor] = {}
    for name, tensor in files.tensors():
        check_values(tensor, f"{folder}: {name}")
        key = own.our_key(name.removeprefix(PREFIX))
        match = LOW_RANK.fullmatch(key)
        if not name.startswith(PREFIX) or (match is None and not key.endswith(".weight")):
            faults.append(f"unknown {name}")
        elif key.endswith(BASE):
            copies[f"{key.removesuffix(BASE)}.weight"] = tensor.clone()
        elif match is None:
            updates[key] = Whole(weight=tensor.clone())
        else:
            embedding = match["embedding"] is not None
            # peft keeps an embedding's halves for the transposed table: A (R I), B (O R).
            half = {"A": "b", "B": "a"}[match["half"]] if embedding else match["half"].lower()
            halves.setdefault(match["module"], {})[half] = tensor.t() if embedding else tensor
    for module, pair in halves.items():
        if pair.keys() != {"a", "b"} or pair["a"].shape[:1] != pair["b"].shape[1:]:
            faults.append(f"{module} has {', '.join(sorted(pair))} that make no product")
        else:
            scale = scaling(config, module, rank=len(pair["a"]), faults=faults)
            if f"{module}.weight" in updates:
                faults.append(f"{module} comes whole and in low rank")
            updates[f"{module}.weight"] = LowRank(
                a_RI=pair["a"].clone(), b_OR=pair["b"].clone(), scale=scale
            )
    refuse(f"{folder}", faults)
    return Adapter(
        updates=updates,
        name=folder.name,
        sha256=hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
        base_sha256=str(config.get("base_sha256") or ""),
        copies=copies,
    )


def config_faults(config: Mapping[str, Any]) -> list[str]:
    """Options under which the update is another one than s B A."""
    faults = [
        f"{name} is {config[name]!r}, allowed: {', '.join(map(repr, allowed))}"
        for name, allowed in REQUIRED.items()
        if config.get(name, allowed[0]) not in allowed
    ]
    for name in ("rank_pattern", "alpha_pattern"):
        if not isinstance(config.get(name) or {}, dict):
            faults.append(f"{name} is {config[name]!r}, allowed: names and numbers")
    return faults


def scaling(config: Mapping[str, Any], module: str, *, rank: int, faults: list[str]) -> float:
    """alpha / r, or alpha / sqrt(r) with rslora; patterns name single modules."""
    r = _pattern(config.get("rank_pattern"), module, config.get("r"))
    alpha = _pattern(config.get("alpha_pattern"), module, config.get("lora_alpha"))
    if r != rank or not isinstance(alpha, int | float):
        faults.append(f"{module} has rank {rank}; the configuration says r {r}, alpha {alpha}")
        return 0.0
    return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)


def _pattern(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """peft's rule: a pattern is a regular expression for the end of a module's name."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def describe(folder: Path) -> dict[str, object]:
    """For `weights inspect`."""
    adapter = read(folder)
    config = safetensors_files.read_json(folder / CONFIG)
    files = safetensors_files.read(folder, (folder / WEIGHTS,))
    ranks = {len(u.a_RI) for u in adapter.updates.values() if isinstance(u, LowRank)}
    return {
        "parameters": adapter.parameters,
        "dtypes": count_dtypes(header.dtype for header in files.headers.values()),
        "ranks": sorted(ranks),
        "alpha": config.get("lora_alpha"),
        "low_rank": sum(isinstance(u, LowRank) for u in adapter.updates.values()),
        "whole": sum(isinstance(u, Whole) for u in adapter.updates.values()),
        "rope": "halves",
    }


def check_base(adapter: Adapter, sha256: str) -> None:
    """Raises CheckpointError where the adapter says it was trained on other weights."""
    if adapter.base_sha256 not in ("", sha256):
        raise CheckpointError(
            f"adapter {adapter.name} was trained on weights {adapter.base_sha256}, not on {sha256}"
        )
