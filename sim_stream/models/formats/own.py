"""Bare safetensors files whose keys are ours, or Hugging Face Llama's: parts without a manifest.

The keys tell the part: an encoder is in a VQModel only, 5-D kernels in a video decoder only, and
``layers.`` in a world model only. Rotary embedding is Hugging Face's (halves), ours as well; files
in another convention look the same, so only a format that states it is safe.
"""

from __future__ import annotations

from pathlib import Path

from sim_stream.config import Preset
from sim_stream.errors import CheckpointError
from sim_stream.models.formats import safetensors_files
from sim_stream.models.formats.source import Source, Tensors, count_dtypes

KIND = "safetensors"
# Tensors of older Llama files that are computed, not learned.
COMPUTED = ".rotary_emb.inv_freq"
DROPPED = f"*{COMPUTED} dropped: computed in fp32"


def read(path: Path) -> Source:
    """Raises CheckpointError."""
    files = safetensors_files.read(path)
    return from_files(files, KIND, part_of(files))


def from_files(files: safetensors_files.Files, kind: str, part: str) -> Source:
    """The tensors of these files under our names."""
    headers = {
        our_key(key): header for key, header in files.headers.items() if not key.endswith(COMPUTED)
    }
    dropped = [key for key in files.headers if key.endswith(COMPUTED)]
    if len(headers) + len(dropped) != len(files.headers):
        raise CheckpointError(f"{files.path}: tensors with and without `model.` in front")

    def stream(preset: Preset) -> Tensors:
        for key, tensor in files.tensors():
            if not key.endswith(COMPUTED):
                yield our_key(key), tensor

    renamed = any(key.startswith("model.") for key in files.headers)
    return Source(
        kind=kind,
        part=part,
        path=files.path,
        files=files.files,
        shapes={key: header.shape for key, header in headers.items()},
        dtypes=count_dtypes(header.dtype for header in headers.values()),
        stream=stream,
        facts={"rope": "halves"} if part == "world_model" else {},
        transforms=("`model.` taken off",) * renamed + (DROPPED,) * bool(dropped),
    )


def our_key(key: str) -> str:
    """Hugging Face's `model.layers.0...` is our `layers.0...`."""
    return key.removeprefix("model.")


def part_of(files: safetensors_files.Files) -> str:
    """Which part of a model these tensors are. Raises CheckpointError."""
    first = {our_key(key).split(".")[0] for key in files.headers}
    if first & {"layers", "embed_tokens", "vte", "vision_head", "lm_head"}:
        return "world_model"
    if "decoder" in first:
        return "vq_model" if "encoder" in first else "video_decoder"
    some = ", ".join(sorted(files.headers)[:3])
    raise CheckpointError(f"{files.path}: tensors of no model known here ({some}, ...)")
