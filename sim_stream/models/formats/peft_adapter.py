"""peft's LoRA adapters: ``adapter_config.json`` and ``adapter_model.safetensors``.

Linear layers, embeddings and whole modules (``modules_to_save``) are understood; anything that
would make the update another one than s B A (DoRA, biases, ...) is refused by name. What peft
ignores with a warning (a pattern that names no module, an option it does not know) is ignored with
a warning here. The rotary convention of q and k must be the base's: Hugging Face's halves, ours as
well. An adapter of LWM's own interleaved weights does not exist in peft's form.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sim_stream.errors import CheckpointError
from sim_stream.files import read_json, sha256_of
from sim_stream.models.formats import own, peft_names, safetensors_files
from sim_stream.models.formats.source import LARGEST_WEIGHT, check_values, count_dtypes, refuse
from sim_stream.models.lora import Adapter, LowRank, Whole
from sim_stream.text import one_line

log = logging.getLogger(__name__)

KIND = "peft adapter"
CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."
BASE = ".base_layer.weight"  # peft saves adapted embeddings' own weights too, unless told not to
LOW_RANK = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<half>[AB])(\.weight)?")
DEFAULT_RANK = DEFAULT_ALPHA = 8  # peft's, where a configuration does not say
# All of these mean that an option is off, whatever its type.
OFF: tuple[object, ...] = (None, False, [], {})
# Options that would change the arithmetic, and the values under which they do not.
REQUIRED: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", *OFF),
    # PiSSA, OLoRA, CorDA and their like train on another base than the one that is given.
    "init_lora_weights": (True, *OFF, "gaussian", "orthogonal", "eva"),
    "use_rslora": (True, *OFF),
    "fan_in_fan_out": OFF,
    "use_dora": OFF,
    "lora_bias": OFF,
    "use_qalora": OFF,
    "megatron_config": OFF,
    "trainable_token_indices": OFF,
    "layer_replication": OFF,
    "alora_invocation_tokens": OFF,
    "target_parameters": OFF,
    "velora_config": OFF,
    "monteclora_config": OFF,
    "use_bdlora": OFF,
    "arrow_config": OFF,
    "kasa_config": OFF,
}
PATTERNS = ("rank_pattern", "alpha_pattern")
# Options that are read here, and those without a say in the update of a trained adapter.
KNOWN = {
    *REQUIRED,
    *PATTERNS,
    *("r", "lora_alpha", "target_modules", "exclude_modules", "modules_to_save", "base_sha256"),
    *("layers_to_transform", "layers_pattern", "lora_dropout", "inference_mode", "task_type"),
    *("auto_mapping", "base_model_name_or_path", "revision", "peft_version", "runtime_config"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size"),
    *("megatron_core", "ensure_weight_tying"),
}


@dataclass(frozen=True, kw_only=True)
class Contents:
    """An adapter, and what of its files has no effect."""

    adapter: Adapter
    warnings: tuple[str, ...]


def read(folder: Path) -> Adapter:
    """Raises CheckpointError, naming everything in it that is no plain LoRA."""
    contents = read_contents(folder)
    for warning in contents.warnings:
        log.warning("adapter %s: %s", one_line(folder.name), one_line(warning))
    return contents.adapter


def read_contents(folder: Path) -> Contents:
    """Raises as `read`."""
    config = read_json(folder / CONFIG)
    refuse(f"{folder / CONFIG}", config_faults(config))
    if not (folder / WEIGHTS).exists() and (folder / PICKLE).exists():
        raise CheckpointError(f"{folder}: {PICKLE} is a pickle: save it as safetensors with peft")
    files = safetensors_files.read(folder, (folder / WEIGHTS,))
    faults: list[str] = []
    halves: dict[str, dict[str, Tensor]] = {}  # by peft's name of the module
    updates: dict[str, LowRank | Whole] = {}
    copies: dict[str, Tensor] = {}
    for name, tensor in files.tensors():
        check_values(tensor, f"{folder}: {name}")
        theirs = name.removeprefix(PREFIX)
        key, match = own.our_key(theirs), LOW_RANK.fullmatch(theirs)
        if not name.startswith(PREFIX) or (match is None and not key.endswith(".weight")):
            faults.append(f"unknown {name}")
        elif key.endswith(BASE):
            copies[f"{key.removesuffix(BASE)}.weight"] = tensor.clone()
        elif match is None:
            faults += [f"{key} comes twice"] * (key in updates)
            updates[key] = Whole(weight=tensor.clone())
        elif tensor.ndim != 2:
            faults.append(f"{name} is of shape {tuple(tensor.shape)}, no matrix")
        else:
            embedding = match["embedding"] is not None
            # peft keeps an embedding's halves for the transposed table: A (R I), B (O R).
            half = {"A": "b", "B": "a"}[match["half"]] if embedding else match["half"].lower()
            halves.setdefault(match["module"], {})[half] = tensor.t() if embedding else tensor
    scales, warnings = scaling(config, halves, faults, f"{folder / CONFIG}")
    for module, scale in scales.items():
        key, pair = f"{own.our_key(module)}.weight", halves[module]
        faults += [f"{module} comes whole and in low rank, or twice"] * (key in updates)
        updates[key] = LowRank(a_RI=pair["a"].clone(), b_OR=pair["b"].clone(), scale=scale)
    refuse(f"{folder}", faults)
    adapter = Adapter(
        updates=updates,
        name=folder.name,
        sha256=sha256_of(folder / WEIGHTS),
        base_sha256=str(config.get("base_sha256") or ""),
        copies=copies,
    )
    return Contents(adapter=adapter, warnings=tuple(warnings))


def config_faults(config: Mapping[str, Any]) -> list[str]:
    """Options under which the update is another one than s B A."""
    faults = [
        f"{name} is {config[name]!r}, allowed: {', '.join(map(repr, allowed))}"
        for name, allowed in REQUIRED.items()
        if name in config and _lower(config[name]) not in map(_lower, allowed)
    ]
    for name in PATTERNS:
        if not isinstance(config.get(name) or {}, dict):
            faults.append(f"{name} is {config[name]!r}, allowed: names and numbers")
    return faults


def scaling(
    config: Mapping[str, Any], halves: Mapping[str, Mapping[str, Tensor]], faults: list[str],
    where: str,
) -> tuple[dict[str, float], list[str]]:  # fmt: skip
    """The factor of each module that peft would update, by peft's names, and warnings.

    alpha / r, or alpha / sqrt(r) with rslora; patterns give single modules their own. Raises
    CheckpointError where a pattern is none.
    """
    modules = [*halves]
    try:
        targeted = peft_names.targeted(config, modules)
        given = {name: config.get(name) or {} for name in PATTERNS}
        chosen = {name: peft_names.named_by([*given[name]], modules, name) for name in PATTERNS}
        warnings = _warnings(config, modules, targeted)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from error
    scales: dict[str, float] = {}
    for module in targeted:
        pair = halves[module]
        if pair.keys() != {"a", "b"} or pair["a"].shape[:1] != pair["b"].shape[1:]:
            faults.append(f"{module} has {', '.join(sorted(pair))} that make no product")
            continue
        rank = len(pair["a"])
        r, alpha = config.get("r", DEFAULT_RANK), config.get("lora_alpha", DEFAULT_ALPHA)
        if module in chosen["rank_pattern"]:
            r = given["rank_pattern"][chosen["rank_pattern"][module]]
        if module in chosen["alpha_pattern"]:
            alpha = given["alpha_pattern"][chosen["alpha_pattern"][module]]
        scales[module] = _scale(alpha, r, rank, root=bool(config.get("use_rslora")))
        if math.isnan(scales[module]):
            faults.append(f"{module} has rank {rank}; the configuration says r {r}, alpha {alpha}")
    return scales, warnings


def _scale(alpha: object, r: object, rank: int, *, root: bool) -> float:
    """NaN where the configuration's numbers are none, or not the file's."""
    if r != rank or isinstance(alpha, bool) or not isinstance(alpha, int | float):
        return math.nan
    scale = float(alpha) / (rank**0.5 if root else rank)
    return scale if abs(scale) <= LARGEST_WEIGHT else math.nan


def _warnings(
    config: Mapping[str, Any], modules: Sequence[str], targeted: Sequence[str]
) -> list[str]:
    """What has no effect, in peft as here."""
    said = []
    for name in PATTERNS:
        idle = peft_names.idle([*(config.get(name) or {})], targeted, name)
        said += [f"{name} {pattern!r} names no module of it: ignored" for pattern in idle]
    said += [
        f"{module} is left out: target_modules and the like do not name it"
        for module in modules
        if module not in targeted
    ]
    unknown = [name for name, value in config.items() if name not in KNOWN and value not in OFF]
    return said + [f"option {name} is not known: ignored" for name in unknown]


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def describe(folder: Path) -> dict[str, object]:
    """For `weights inspect`."""
    contents = read_contents(folder)
    adapter, config = contents.adapter, read_json(folder / CONFIG)
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
        "ignored": list(contents.warnings),
    }


def check_base(adapter: Adapter, sha256: str) -> None:
    """Raises CheckpointError where the adapter says it was trained on other weights."""
    if adapter.base_sha256 not in ("", sha256):
        raise CheckpointError(
            f"adapter {adapter.name} was trained on weights {adapter.base_sha256}, not on {sha256}"
        )
