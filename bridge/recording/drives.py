"""One recorded drive: a world, a driver, and the files they leave behind.

Knows the World interface and the writer; does not know about workers, splits or progress.
"""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import numpy as np

from bridge.policy import ExploringDriver
from bridge.recording.bdd100k import DriveWriter
from bridge.straying import StrayingDriver
from bridge.worlds import EgoState, RoadWorld

MIN_FRAMES = 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drive:
    """What to record: the id names the files, the seed decides everything in them.

    A drive that strays leaves the road and comes back; any other ends where it leaves it.
    """

    drive_id: str
    split: str
    seed: int
    max_frames: int
    stray: bool = False


class Stopped(Exception):
    """Recording was asked to stop in the middle of a drive; the drive leaves no files."""


def record_drive(
    world: RoadWorld, drive: Drive, root: Path, *, crf: int, stop: threading.Event
) -> dict[str, Any]:
    """Record one drive; returns its line for drives.jsonl. Too short a drive leaves no files."""
    driver = StrayingDriver(drive.seed) if drive.stray else ExploringDriver(drive.seed)
    egos: list[EgoState] = []
    steers: list[float] = []
    with DriveWriter(
        root, drive.split, drive.drive_id, seed=drive.seed, fps=round(world.fps), crf=crf
    ) as writer:
        seen = world.reset(drive.seed)
        while True:
            writer.add(seen)
            egos.append(seen.ego)
            over = seen.done and not (drive.stray and seen.end == "off_road")
            if over or len(egos) == drive.max_frames:
                break
            if stop.is_set():
                raise Stopped(drive.drive_id)
            control = driver.act(seen, world.road())
            steers.append(control.steer)
            seen = world.step(control)
        kept = len(egos) >= MIN_FRAMES
        if kept:
            writer.commit()
    return {
        "id": drive.drive_id,
        "split": drive.split,
        "kept": kept,
        "frames": len(egos),
        "end": seen.end if over else "length",
        "stray": drive.stray,
        **summary(egos, steers),
        "style": dataclasses.asdict(driver.style),
        **world.describe(drive.seed),
    }


def failed_line(drive: Drive, error: Exception) -> dict[str, Any]:
    """The line of a drive whose scene failed; it left no files."""
    return {
        "id": drive.drive_id,
        "split": drive.split,
        "seed": drive.seed,
        "kept": False,
        "frames": 0,
        "end": "failed",
        "error": str(error),
    }


def summary(egos: list[EgoState], steers: list[float]) -> dict[str, Any]:
    """Speed, yaw rate and steering of a drive in a few numbers."""
    speed = np.array([ego.speed_mps for ego in egos])
    yaw = np.array([ego.yaw_rate_radps for ego in egos])
    return {
        "speed_mps": _quantiles(speed),
        "yaw_rate_radps": _quantiles(yaw),
        "steer": _quantiles(np.array(steers or [0.0])),
        "left_share": round(float(np.mean(yaw > 0.02)), 3),
        "right_share": round(float(np.mean(yaw < -0.02)), 3),
        "still_share": round(float(np.mean(speed < 0.3)), 3),
    }


def _quantiles(values: np.ndarray) -> dict[str, float]:
    names = {"min": 0, "p10": 10, "p50": 50, "p90": 90, "max": 100}
    return {name: round(float(np.percentile(values, q)), 4) for name, q in names.items()}
