"""A Hugging Face Llama folder: ``config.json`` and safetensors shards (facts/models.md part 2).

Keys, layouts and rotary convention are ours but for the prefix ``model.``. A text-only Llama lacks
``vte`` and ``vision_head``; they may lie in the same folder or come from a second source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sim_stream.files import read_json
from sim_stream.models.formats import own, safetensors_files
from sim_stream.models.formats.source import Source, refuse

KIND = "Hugging Face Llama"
# Its names of our configuration; all of these must be there.
OURS = {
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "intermediate_size",
    "vocab_size": "text_vocab_size",
    "rms_norm_eps": "rms_norm_eps",
}
# What would make it another network, and the only value with which it is ours.
REQUIRED: dict[str, object] = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "rope_scaling": None,
}
DEFAULT_ROPE_THETA = 10_000.0  # Hugging Face's, where a config does not say


def is_config(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") == "llama"


def read(folder: Path) -> Source:
    """Raises CheckpointError, naming every option that makes it another network."""
    config = read_json(folder / "config.json")
    refuse(f"{folder / 'config.json'}", config_faults(config))
    source = own.from_files(safetensors_files.read(folder), KIND, "world_model")
    return replace(
        source,
        path=folder,
        files=(folder / "config.json", *source.files),
        facts={**source.facts, **config_facts(config)},
    )


def config_facts(config: Mapping[str, Any]) -> dict[str, object]:
    """What our configuration must agree with."""
    facts: dict[str, object] = {ours: config[theirs] for theirs, ours in OURS.items()}
    rope = config.get("rope_parameters") or {}
    facts["rope_theta"] = rope.get("rope_theta", config.get("rope_theta", DEFAULT_ROPE_THETA))
    return facts


def config_faults(config: Mapping[str, Any]) -> list[str]:
    """Every option that is missing or makes it another network than ours."""
    faults = [f"{name} is missing" for name in OURS if name not in config]
    for name, value in REQUIRED.items():
        found = config.get(name, value)
        if found != value and (found or value):  # null, false, [] and {} all mean "off"
            faults.append(f"{name} is {config[name]!r}, this network needs {value!r}")
    heads = config.get("num_attention_heads")
    if config.get("num_key_value_heads") not in (None, heads):
        faults.append(f"num_key_value_heads is not num_attention_heads {heads}")
    rope = config.get("rope_parameters") or {}
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
        faults.append(f"rope_parameters are {rope!r}, this network needs the default type")
    return faults
