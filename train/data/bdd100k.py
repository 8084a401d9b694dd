"""Where the files of a data set in BDD100K's layout lie. The directory is the split.

    videos/<split>/<id>.mov    info/100k/<split>/<id>.json    images/100k/<split>/<id>.jpg

Drives of ``python -m bridge record`` lie the same way. Knows nothing about what is in the files.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim_stream.errors import InvalidInput

SPLITS = ("train", "val", "test")
FOLDERS = {"videos": ("videos", ".mov"), "images": ("images/100k", ".jpg")}


@dataclass(frozen=True, kw_only=True)
class Source:
    """One video (or image, a video of one frame) and its info file, which may not exist.

    ``id``: the name without its suffix, as text that every JSON reader takes.
    """

    id: str
    media: Path
    info: Path

    def exact_name(self) -> dict[str, Any]:
        """What a manifest's line holds beside `id` where that is not the name itself."""
        stem = self.media.stem
        return {} if self.id == stem else {"name_hex": os.fsencode(stem).hex()}


def printable(name: str) -> str:
    """Bytes that are no UTF-8 as \\xff, as nothing else may stand in a JSON text."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def stem_of(row: dict[str, Any]) -> str:
    """A file's name without its suffix from its line in a manifest."""
    exact = row.get("name_hex")
    return str(row["id"]) if exact is None else os.fsdecode(bytes.fromhex(exact))


def find_sources(root: Path, split: str, kind: str = "videos") -> list[Source]:
    """All files of a split in order of their ids. Raises InvalidInput where there are none.

    What they are is not looked at: links, folders and pipes are named, too.
    """
    if kind not in FOLDERS:
        raise InvalidInput("kind", kind, ", ".join(FOLDERS))
    if split not in SPLITS:
        raise InvalidInput("split", split, ", ".join(SPLITS))
    subfolder, suffix = FOLDERS[kind]
    folder = root / subfolder / split
    try:
        names = sorted(os.listdir(folder)) if folder.is_dir() else []
    except OSError as error:
        raise InvalidInput("root", f"{folder} ({error.strerror})", "a folder to read") from error
    stems = [n.removesuffix(suffix) for n in names if n.endswith(suffix) and n[0] != "."]
    if not stems:
        raise InvalidInput("root", folder, f"a folder with {suffix} files (BDD100K's layout)")
    infos = root / "info" / "100k" / split
    return [
        Source(id=printable(s), media=folder / f"{s}{suffix}", info=infos / f"{s}.json")
        for s in stems
    ]
