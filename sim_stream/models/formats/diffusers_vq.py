"""diffusers' ``VQModel`` folder: ``config.json`` and safetensors (facts/models.md part 1).

Keys and layouts are ours already; what has to be checked is the configuration, whose every option
is either one of ours or must have the value under which diffusers' network is ours. It does not say
the pixel range: that is found by reconstruction (``pixel_range.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sim_stream.config import Preset
from sim_stream.errors import CheckpointError
from sim_stream.files import read_json
from sim_stream.models.formats import safetensors_files
from sim_stream.models.formats.source import Source, Tensors, count_dtypes, refuse

KIND = "diffusers VQModel"
WEIGHTS = "diffusion_pytorch_model"
# Options that are ours; their values are compared with the preset's.
OURS = (
    *("block_out_channels", "layers_per_block", "latent_channels", "num_vq_embeddings"),
    "norm_num_groups",
)
# The values of diffusers' other options under which its network is ours, and its own defaults.
REQUIRED: dict[str, object] = {
    "in_channels": 3,
    "out_channels": 3,
    "act_fn": "silu",
    "norm_type": "group",
    "mid_block_add_attention": False,
}
DEFAULTS: dict[str, object] = {**REQUIRED, "mid_block_add_attention": True}
# Options without a say in the arithmetic from pixels to ids and back.
WITHOUT_EFFECT = ("sample_size", "scaling_factor", "lookup_from_codebook", "force_upcast")


def is_config(config: Mapping[str, Any]) -> bool:
    return config.get("_class_name") == "VQModel"


def read(folder: Path) -> Source:
    """Raises CheckpointError, naming every option that makes it another network."""
    config = read_json(folder / "config.json")
    refuse(f"{folder / 'config.json'}", config_faults(config))
    files = safetensors_files.read(folder, _weights(folder))

    def stream(preset: Preset) -> Tensors:
        return files.tensors()

    return Source(
        kind=KIND,
        part="vq_model",
        path=folder,
        files=(folder / "config.json", *files.files),
        shapes={key: header.shape for key, header in files.headers.items()},
        dtypes=count_dtypes(header.dtype for header in files.headers.values()),
        stream=stream,
        facts={name: _plain(config[name]) for name in OURS if name in config},
    )


def config_faults(config: Mapping[str, Any]) -> list[str]:
    """Every option that is missing, unknown, or makes it another network than ours."""
    channels, latent = config.get("block_out_channels"), config.get("latent_channels")
    levels = len(channels) if isinstance(channels, list) else 0
    required = REQUIRED | {
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }
    faults = [f"{name} is missing" for name in OURS if name not in config]
    for name, value in required.items():
        found = config.get(name, DEFAULTS.get(name))
        if found != value:
            faults.append(f"{name} is {found!r}, this network needs {value!r}")
    if config.get("vq_embed_dim") not in (None, latent):
        faults.append(f"vq_embed_dim is {config['vq_embed_dim']!r}, this network needs {latent!r}")
    known = {*OURS, *required, "vq_embed_dim", *WITHOUT_EFFECT}
    unknown = [name for name in config if name not in known and not name.startswith("_")]
    return faults + [f"unknown option {name}" for name in unknown]


def _weights(folder: Path) -> tuple[Path, ...]:
    """The full-precision files where there are several variants."""
    for name in (WEIGHTS, f"{WEIGHTS}.fp16"):
        index, single = folder / f"{name}.safetensors.index.json", folder / f"{name}.safetensors"
        if index.is_file() or single.is_file():
            return safetensors_files.find(index if index.is_file() else single)
    pickles = [path.name for path in folder.glob("*.bin")]
    hint = f"; {pickles[0]} is a pickle: save it as safetensors with diffusers" if pickles else ""
    raise CheckpointError(f"{folder}: no {WEIGHTS}.safetensors{hint}")


def _plain(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value
