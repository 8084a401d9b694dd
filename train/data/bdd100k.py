"""Where the files of a data set in BDD100K's layout lie. The directory is the split.

    videos/<split>/<id>.mov    info/100k/<split>/<id>.json    images/100k/<split>/<id>.jpg

Drives of ``python -m bridge record`` lie the same way. Knows nothing about what is in the files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sim_stream.errors import InvalidInput

SPLITS = ("train", "val", "test")
FOLDERS = {"videos": ("videos", ".mov"), "images": ("images/100k", ".jpg")}


@dataclass(frozen=True, kw_only=True)
class Source:
    """One video (or image, a video of one frame) and its info file, which may not exist."""

    id: str
    media: Path
    info: Path


def find_sources(root: Path, split: str, kind: str = "videos") -> list[Source]:
    """All files of a split in order of their ids. Raises InvalidInput where there are none."""
    if kind not in FOLDERS:
        raise InvalidInput("kind", kind, ", ".join(FOLDERS))
    if split not in SPLITS:
        raise InvalidInput("split", split, ", ".join(SPLITS))
    subfolder, suffix = FOLDERS[kind]
    folder = root / subfolder / split
    paths = sorted(path for path in folder.glob(f"*{suffix}") if not path.name.startswith("."))
    if not paths:
        raise InvalidInput("root", folder, f"a folder with {suffix} files (BDD100K's layout)")
    infos = root / "info" / "100k" / split
    return [Source(id=p.stem, media=p, info=infos / f"{p.stem}.json") for p in paths]
