"""What a weights folder's manifest may say: every field that is read has its type checked first.

People edit manifests, and a folder may come from anybody: a value of another kind is refused with
its field before anything is done with it. Fields that nobody reads (how the weights were made,
held-out figures) may hold any JSON. Knows the manifest alone, no file beside it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from sim_stream.errors import CheckpointError
from sim_stream.files import escapes

FORMAT = 1
PARTS = ("vq_model", "world_model", "video_decoder")
MAX_NAME_CHARS, MAX_PROMPT_IDS, MAX_SHARDS = 256, 4096, 10_000
SHA256 = re.compile("[0-9a-f]{64}")


def check(manifest: Mapping[str, Any], where: str) -> None:
    """Raises CheckpointError, naming every field that is missing or not what it should be."""
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"{where}: not a manifest of format {FORMAT}")
    faults = _missing(manifest, REQUIRED, "")
    faults += _faults(manifest, REQUIRED, "") + _faults(manifest, OPTIONAL, "", null=True)
    files = manifest.get("files")
    for part, entry in files.items() if isinstance(files, dict) else ():
        if part not in PARTS:
            faults.append(f"files has {part!r}; allowed: {', '.join(PARTS)}")
        elif not isinstance(entry, dict):
            faults.append(f"files.{part} is {_short(entry)}; allowed: {ENTRY_SAYS}")
        else:
            prefix = f"files.{part}."
            faults += _missing(entry, ENTRY, prefix) + _faults(entry, ENTRY, prefix)
            faults += _faults(entry, ENTRY_OPTIONAL, prefix, null=True)
    tokenizer = manifest.get("tokenizer")
    if isinstance(tokenizer, dict):
        faults += _faults(tokenizer, TOKENIZER, "tokenizer.", null=True)
    if faults:
        raise CheckpointError(f"{where}: {'; '.join(faults)}")


Rule = tuple[Callable[[Any], bool], str]


def _faults(
    values: Mapping[str, Any], rules: Mapping[str, Rule], prefix: str, *, null: bool = False
) -> list[str]:
    """Fields against their rules; `null`: it is as good as none."""
    return [
        f"{prefix}{name} is {_short(values[name])}; allowed: {allowed}"
        for name, (holds, allowed) in rules.items()
        if name in values and not (null and values[name] is None) and not holds(values[name])
    ]


def _missing(values: Mapping[str, Any], rules: Mapping[str, Rule], prefix: str) -> list[str]:
    return [f"{prefix}{name} is missing" for name in rules if name not in values]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:76]} ..."


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME_CHARS and value.isprintable()


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and SHA256.fullmatch(value) is not None


def _are_shards(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and 0 < len(value) <= MAX_SHARDS
        and not any(map(escapes, value))
        and all(map(_is_sha256, value.values()))
    )


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MAX_PROMPT_IDS and all(map(is_count, value))


NAME: Rule = (_is_name, f"printable text of up to {MAX_NAME_CHARS} characters")
HASH: Rule = (_is_sha256, "64 hexadecimal digits")
OBJECT: Rule = (lambda value: isinstance(value, dict), "an object")
ENTRY_SAYS = "an object with sha256 and parameters"
REQUIRED: dict[str, Rule] = {
    "preset": NAME,
    "model_id": NAME,
    "config": OBJECT,
    "files": (lambda value: isinstance(value, dict) and bool(value), "an object of parts"),
}
OPTIONAL: dict[str, Rule] = {
    "prompt_ids": (_are_ids, f"up to {MAX_PROMPT_IDS} whole numbers"),
    "tokenizer": OBJECT,
    "held_out": OBJECT,
    "stages": OBJECT,
}
ENTRY: dict[str, Rule] = {"sha256": HASH, "parameters": (is_count, "a whole number")}
ENTRY_OPTIONAL: dict[str, Rule] = {
    "shards": (_are_shards, "names of files in the folder and their SHA-256"),
    "pixel_range": NAME,
}
TOKENIZER: dict[str, Rule] = {"sha256": HASH}
