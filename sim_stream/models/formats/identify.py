"""What a path is: which format, and so which reader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sim_stream.errors import CheckpointError, InvalidInput
from sim_stream.files import open_regular, read_json
from sim_stream.models.formats import (
    diffusers_vq,
    hf_llama,
    lwm_params,
    lwm_vqgan,
    own,
    peft_adapter,
    safetensors_files,
)
from sim_stream.models.formats.source import Source

WEIGHTS_FOLDER, TOKENIZER, LWM_FOLDER = "sim_stream weights folder", "tokenizer", "LWM release"
TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json")
LWM_FILES = {lwm_vqgan.KIND: "vqgan", lwm_params.KIND: "params"}
KNOWN = (
    "a diffusers VQModel folder, LWM's `vqgan` or `params`, a Hugging Face Llama folder or its "
    "shards, safetensors with our keys, a peft adapter, a weights folder, a tokenizer file"
)
READERS: dict[str, Callable[[Path], Source]] = {
    diffusers_vq.KIND: diffusers_vq.read,
    hf_llama.KIND: hf_llama.read,
    lwm_vqgan.KIND: lwm_vqgan.read,
    lwm_params.KIND: lwm_params.read,
    own.KIND: own.read,
}


def kind_of(path: Path) -> str:
    """The format of a file or folder. Raises InvalidInput (no such path), CheckpointError."""
    try:
        path.stat()
    except (OSError, ValueError) as error:
        why = "" if isinstance(error, FileNotFoundError) else f" ({_reason(error)})"
        raise InvalidInput("path", f"{path}{why}", "an existing file or folder") from error
    return _kind_of_folder(path) if path.is_dir() else _kind_of_file(path)


def source_of(path: Path) -> Source:
    """The reader's view of a path that holds one part. Raises as `kind_of`."""
    kind = kind_of(path)
    if kind not in READERS:
        raise InvalidInput("path", f"{path} ({kind})", "weights in a foreign format")
    return READERS[kind](path)


def members(path: Path) -> list[Path]:
    """The paths that are meant: an LWM release folder stands for the files in it."""
    if kind_of(path) != LWM_FOLDER:
        return [path]
    names = (*LWM_FILES.values(), TOKENIZER_FILES[0])
    return [path / name for name in names if (path / name).is_file()]


def tokenizer_beside(path: Path) -> Path | None:
    """The tokenizer file in a checkpoint's folder."""
    folder = path if path.is_dir() else path.parent
    found = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    return found[0] if found else None


def _kind_of_folder(folder: Path) -> str:
    if (folder / "manifest.json").is_file():
        return WEIGHTS_FOLDER
    if (folder / peft_adapter.CONFIG).is_file():
        return peft_adapter.KIND
    if (folder / "config.json").is_file():
        config = read_json(folder / "config.json")
        if diffusers_vq.is_config(config):
            return diffusers_vq.KIND
        if hf_llama.is_config(config):
            return hf_llama.KIND
        name = config.get("_class_name") or config.get("model_type") or "nothing known"
        raise CheckpointError(f"{folder}: its config.json says {str(name)[:80]!r}; known: {KNOWN}")
    if any((folder / name).is_file() for name in LWM_FILES.values()):
        return LWM_FOLDER
    if (folder / "model_index.json").is_file():
        inner = [path.parent.name for path in sorted(folder.glob("*/config.json"))]
        raise CheckpointError(
            f"{folder}: a diffusers pipeline; name the folder of its VQModel, of {inner}"
        )
    if safetensors_files.find(folder):
        return own.KIND
    raise CheckpointError(f"{folder}: nothing known in there; known: {KNOWN}")


def _kind_of_file(path: Path) -> str:
    if path.name in TOKENIZER_FILES:
        return TOKENIZER
    if path.name.endswith((safetensors_files.SUFFIX, safetensors_files.INDEX_SUFFIX)):
        return own.KIND
    with open_regular(path) as file:
        start = file.read(4)
    if start[:1] == b"\x92":  # a msgpack pair
        return lwm_params.KIND
    if start[:1] == b"\x80" and start[1:2] <= b"\x05":  # a pickle's protocol, 2 and up
        return lwm_vqgan.KIND
    hint = "; a PyTorch pickle is: save it as safetensors" if start == b"PK\x03\x04" else ""
    raise CheckpointError(f"{path}: nothing known{hint}; known: {KNOWN}")


def _reason(error: Exception) -> object:
    return getattr(error, "strerror", None) or error
