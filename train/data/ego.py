"""Ego speed and yaw rate at frame times from a drive's info JSON (BDD100K's `locations`).

Rows come about once a second (recorded drives: once a frame). Rows with -1 or missing values and
rows that repeat a timestamp are dropped. Between rows at most `MAX_GAP_S` apart speed and the
velocity vector (sin, cos) x speed are interpolated linearly; where no such rows surround a time,
the action is unknown (nan). The action of a frame is the motion that led to it: its yaw rate is the
wrapped difference of the courses at this and the previous frame time.

Course is clockwise from north, yaw rate counter-clockwise. Phone gyroscopes are not used: their
mounting is unknown.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sim_stream.config import Action
from sim_stream.layout import FrameLayout
from train.data.bdd100k import printable

MAX_GAP_S = 1.1
LARGEST = 1e15  # ms since 1970 are 2e12
LARGEST_FILE = 64 << 20  # BDD100K's are some 200 kB
MIN_SPEED_MPS = 0.5  # below this a GPS course is noise; a standing car does not turn


class Track(NamedTuple):
    """Usable rows of one drive, in time order; times in s from the start of the video."""

    times_s: np.ndarray
    speed_mps: np.ndarray
    course_rad: np.ndarray

    @property
    def gaps(self) -> int:
        """Places where neighbouring rows are too far apart to interpolate."""
        return int((np.diff(self.times_s) > MAX_GAP_S).sum())


def _number(value: Any) -> bool:
    """Whether JSON gave a number that can be a time in ms, a speed or a course."""
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return known and -LARGEST < value < LARGEST


def _usable(row: Any) -> bool:
    if not isinstance(row, dict) or not _number(row.get("timestamp")):
        return False
    return all(_number(row.get(key)) and row[key] >= 0 for key in ("speed", "course"))


def read_track(info: Path) -> tuple[Track | None, str | None]:
    """(track, None), or (None, why there is none)."""
    try:
        if not info.is_file():
            return None, "no info file"
        if info.stat().st_size > LARGEST_FILE:
            return None, f"info file of {info.stat().st_size} bytes"
        content = json.loads(info.read_text())
    except (OSError, ValueError, RecursionError) as error:
        why = printable(str(error)) if isinstance(error, OSError) else error
        return None, f"info file cannot be read: {why}"
    if not isinstance(content, dict) or not _number(content.get("startTime")):
        return None, "info file has no startTime"
    rows = content.get("locations") or content.get("gps") or []
    if not isinstance(rows, list):
        return None, "locations are no list"
    if not rows:
        return None, "no locations"
    return track_of(rows, content["startTime"])


def track_of(rows: list[Any], start_ms: float) -> tuple[Track | None, str | None]:
    """The usable rows of `locations`; timestamps in ms."""
    by_time: dict[float, Any] = {}
    for row in rows:
        if _usable(row):
            by_time.setdefault(row["timestamp"], row)
    if len(by_time) < 2:
        return None, f"{len(by_time)} usable locations of {len(rows)}"
    stamps = sorted(by_time)
    times = (np.array(stamps, np.float64) - start_ms) / 1000.0
    speed = np.array([by_time[t]["speed"] for t in stamps], np.float64)
    course = np.radians([by_time[t]["course"] for t in stamps])
    return Track(times, speed, course), None


def interpolate(track: Track, times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Speed (N,) in m/s and course (N,) in rad; nan where no rows surround a time closely."""
    t = track.times_s
    right = np.searchsorted(t, times_s, side="left").clip(1, len(t) - 1)
    after, before = t[right] - times_s, times_s - t[right - 1]
    # Half a millisecond of slack: info files count in whole ones.
    inside = (after > -5e-4) & (before > -5e-4) & (after + before <= MAX_GAP_S)
    inside |= np.minimum(abs(after), abs(before)) < 5e-4
    speed = np.interp(times_s, t, track.speed_mps)
    east = np.interp(times_s, t, np.sin(track.course_rad) * track.speed_mps)
    north = np.interp(times_s, t, np.cos(track.course_rad) * track.speed_mps)
    return np.where(inside, speed, np.nan), np.where(inside, np.arctan2(east, north), np.nan)


def actions_at(track: Track | None, times_s: np.ndarray, fps: float) -> np.ndarray:
    """(N 2) float32: speed in m/s and yaw rate in rad/s, left positive; nan where unknown."""
    if track is None:
        return np.full((len(times_s), 2), np.nan, np.float32)
    speed, course = interpolate(track, times_s)
    earlier_speed, earlier = interpolate(track, times_s - 1.0 / fps)
    turned = (course - earlier + np.pi) % (2.0 * np.pi) - np.pi
    yaw = -turned * fps
    yaw[np.fmin(speed, earlier_speed) < MIN_SPEED_MPS] = 0.0
    speed[np.isnan(yaw)] = np.nan
    return np.stack([speed, yaw], 1).astype(np.float32)


def action_of(row_2: np.ndarray) -> Action | None:
    """One action row as the runtime takes it; None where it is unknown."""
    if np.isnan(row_2).any():
        return None
    return Action(speed_mps=float(row_2[0]), yaw_rate_radps=float(row_2[1]))


def action_ids(layout: FrameLayout, actions_N2: np.ndarray) -> np.ndarray:
    """(N actions_per_frame) int64, binned by the code that the runtime uses."""
    if not layout.actions_per_frame:
        return np.zeros((len(actions_N2), 0), np.int64)
    return np.array([layout.action_ids(action_of(row)) for row in actions_N2], np.int64)
