"""`data scan`: every file of a split decoded once; what it holds, or why it is rejected.

    manifest.jsonl   a header {format, root, split, kind, ...}, then one line per file: id, bytes,
                     mtime_ns, sha256, frames, duration_s, ..., ego, rejected (null or the reason)

Whatever stands under a name of the set has its line: links to nothing, folders, pipes, files that
cannot be read or that kill their reader. A scan that was interrupted goes on; a file whose size or
time changed is scanned again, and so is one that could not be read. There is no public list of
BDD100K's broken videos, so this is the only way to know them.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sim_stream.video_reader import why_no_file
from sim_stream.config import FrameSize
from sim_stream.errors import InvalidInput, VideoError
from sim_stream.video import SIZE, VideoFacts, inspect_video
from train.data.bdd100k import Source, find_sources, printable
from train.data.ego import read_track
from train.data.work import Journal, run_all, write_lines

FORMAT = 2
MIN_SIZE, MAX_SIZE = 8, 8192  # pixels


@dataclass(frozen=True, kw_only=True)
class ScanRules:
    """What a usable video must keep to."""

    size: FrameSize = SIZE  # of the crop, after halving
    max_gap_s: float = 0.5  # between frames; a longer one would freeze the sampled drive

    def __post_init__(self) -> None:
        require_size(self.size)
        if not 0 < self.max_gap_s < math.inf:
            raise InvalidInput("max_gap_s", self.max_gap_s, "above 0 seconds")


def require_size(size: FrameSize) -> None:
    """Raises InvalidInput for a crop that no video can give."""
    if not (MIN_SIZE <= size.height <= MAX_SIZE and MIN_SIZE <= size.width <= MAX_SIZE):
        raise InvalidInput("size", size, f"{MIN_SIZE}..{MAX_SIZE} pixels a side")


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def scan_one(source: Source, rules: ScanRules) -> dict[str, Any]:
    """The manifest's line of one file. Raises nothing on account of the file."""
    row: dict[str, Any] = {"id": source.id, **source.exact_name()}
    try:
        reason = why_no_file(source.media)
        if reason is not None:
            return unread(row, reason)
        stat = source.media.stat()
        row |= {
            "bytes": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
            "sha256": file_sha256(source.media),
        }
    except OSError as error:
        return unread(row, f"cannot be read: {error.strerror}")
    try:
        facts = inspect_video(source.media)
    except VideoError as error:
        given = str(error.given).removeprefix(f"{source.media} ").strip("()")
        return {**row, "rejected": printable(given)}
    track, no_ego = read_track(source.info)
    return {
        **row,
        "frames": facts.frames,
        "duration_s": round(float(facts.end_s + 2 * facts.half_interval_s), 3),
        "end_s": str(facts.end_s),
        "half_interval_s": str(facts.half_interval_s),
        "longest_gap_s": round(facts.longest_gap_s, 3),
        "lead_s": str(facts.lead_s),
        "width": facts.width,
        "height": facts.height,
        "rotation": facts.rotation,
        "ego": no_ego or "ok",
        "ego_gaps": track.gaps if track else None,
        "rejected": reason_against(facts, rules),
    }


def unread(row: dict[str, Any], reason: str) -> dict[str, Any]:
    """The line of a file that is not known by its bytes, so that it is tried at every scan."""
    return {**row, "bytes": None, "mtime_ns": None, "sha256": None, "rejected": reason}


def killed(source: Source, how: str) -> dict[str, Any]:
    """The line of a file whose reader died on it."""
    return unread({"id": source.id, **source.exact_name()}, f"its reader was {how}")


def reason_against(facts: VideoFacts, rules: ScanRules) -> str | None:
    """Why an undamaged video cannot be used; None if it can."""
    size = rules.size
    if facts.width < 2 * size.width or facts.height < 2 * size.height:
        least = f"{2 * size.width}x{2 * size.height}"
        return f"{facts.width}x{facts.height} pixels, fewer than {least}"
    if facts.rotation % 90:
        return f"rotated by {facts.rotation} degrees"
    if facts.longest_gap_s > rules.max_gap_s:
        return f"gap of {facts.longest_gap_s:.2f} s between two frames"
    if facts.lead_s > rules.max_gap_s:
        return f"begins between key frames, {float(facts.lead_s):.2f} s before the first picture"
    return None


def facts_of(row: dict[str, Any]) -> VideoFacts:
    """The video facts that a manifest's line holds."""
    return VideoFacts(
        frames=row["frames"],
        end_s=Fraction(row["end_s"]),
        half_interval_s=Fraction(row["half_interval_s"]),
        longest_gap_s=row["longest_gap_s"],
        lead_s=Fraction(row["lead_s"]),
        width=row["width"],
        height=row["height"],
        rotation=row["rotation"],
    )


def scan(
    root: Path, out: Path, split: str, *, kind: str, rules: ScanRules, workers: int
) -> dict[str, Any]:
    """Writes `out`/manifest-KIND-SPLIT.jsonl and gives a summary. Raises InvalidInput."""
    sources = find_sources(root, split, kind)
    header = {
        "format": FORMAT,
        "root": str(root.resolve()),
        "split": split,
        "kind": kind,
        **vars(rules),
        "size": str(rules.size),
    }
    path = manifest_path(out, split, kind)
    journal = Journal(path.with_suffix(".partial"), header)
    whole = Journal.read(path)
    if whole and whole[0] == header:  # of other rules: every file is judged anew
        journal.rows |= {row["id"]: row for row in whole[1:]}
    todo = [source for source in sources if not unchanged(source, journal.rows.get(source.id))]
    done = len(sources) - len(todo)
    results = run_all(partial(scan_one, rules=rules), todo, workers, died=killed)
    for row in tqdm(results, f"scan {split}", len(sources), initial=done, unit="file"):
        journal.add(row)
    rows = [journal.rows[source.id] for source in sources]
    write_lines(path, [header, *rows])
    journal.path.unlink()
    return {"manifest": str(path), **summary(rows)}


def unchanged(source: Source, row: dict[str, Any] | None) -> bool:
    if row is None:
        return False
    try:
        stat = source.media.stat()
    except OSError:
        return False
    return bool((row["bytes"], row["mtime_ns"]) == (stat.st_size, stat.st_mtime_ns))


def summary(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    rows = list(rows)
    used = [row for row in rows if row["rejected"] is None]
    return {
        "files": len(rows),
        "usable": len(used),
        "hours": round(sum(row["duration_s"] for row in used) / 3600, 3),
        "with_ego": sum(row["ego"] == "ok" for row in used),
        "rejected": {row["id"]: row["rejected"] for row in rows if row["rejected"]},
        "no_ego": dict(Counter(row["ego"] for row in used if row["ego"] != "ok")),
    }


def manifest_path(folder: Path, split: str, kind: str = "videos") -> Path:
    return folder / f"manifest-{kind}-{split}.jsonl"


def read_manifest(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(header, lines). Raises InvalidInput."""
    if not path.is_file():
        begun = path.with_suffix(".partial").is_file()
        given = f"{path} ({'scan not finished' if begun else 'does not exist'})"
        raise InvalidInput("manifest", given, "a manifest made by `python -m train data scan`")
    # Same line format as a journal's, and final, so nothing is cut off.
    journal = Journal.read(path)
    if not journal or journal[0].get("format") != FORMAT:
        raise InvalidInput("manifest", path, f"a manifest of format {FORMAT}: scan again")
    return journal[0], journal[1:]
