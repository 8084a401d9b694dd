"""One drive as BDD100K lays it out: videos/<split>/<id>.mov and info/100k/<split>/<id>.json.

The keys and units are BDD100K's, the rates are ours: one `locations` entry per video frame, at
that frame's time, where BDD100K has one a second. `gyro` (rad/s) and `accelerometer` (specific
force in multiples of 9.80665 m/s2) are also per frame, in ISO 8855 axes: x forward, y left, z up,
so a left turn has gyro z > 0 and a car at rest has accelerometer z = 1. `course` is the heading of
the body in degrees clockwise from north; GPS gives that of the movement, which is undefined at a
standstill.

Files appear under their final names only when they are complete. It does not know about simulators.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
import numpy.typing as npt

from bridge.worlds import EgoState, Observation
from sim_stream.errors import InvalidInput, Unavailable
from sim_stream.media_path import create_video
from sim_stream.outputs import part_of, said_plainly, write_whole
from sim_stream.plain_json import to_json

GRAVITY_MPS2 = 9.80665
EARTH_RADIUS_M = 6_371_008.8
ORIGIN_LATITUDE_DEG, ORIGIN_LONGITUDE_DEG = 45.0, 7.0  # an arbitrary place, away from zero values
LOCATION_ACCURACY_M = 0.01
EPOCH_MS = 1_500_000_000_000  # a drive's clock follows from its seed, never from the wall clock
DRIVE_SPACING_MS = 3_600_000


def video_path(root: Path, split: str, drive_id: str) -> Path:
    return root / "videos" / split / f"{drive_id}.mov"


def info_path(root: Path, split: str, drive_id: str) -> Path:
    return root / "info" / "100k" / split / f"{drive_id}.json"


def course_deg(heading_rad: float) -> float:
    """Heading (counter-clockwise from east) as course (clockwise from north), in [0, 360)."""
    return (90.0 - math.degrees(heading_rad)) % 360.0


def latitude_longitude_deg(x_m: float, y_m: float) -> tuple[float, float]:
    """East and north metres on the plane that touches the sphere at the arbitrary origin."""
    latitude = ORIGIN_LATITUDE_DEG + math.degrees(y_m / EARTH_RADIUS_M)
    per_degree = EARTH_RADIUS_M * math.cos(math.radians(ORIGIN_LATITUDE_DEG))
    return latitude, ORIGIN_LONGITUDE_DEG + math.degrees(x_m / per_degree)


def info(
    drive_id: str, start_ms: int, times_ms: Sequence[int], egos: Sequence[EgoState]
) -> dict[str, Any]:
    """The info file's content; times_ms are relative to start_ms and match egos one to one."""
    if len(times_ms) != len(egos) or not egos:
        raise InvalidInput("egos", len(egos), f"one per time, {len(times_ms)} and at least one")
    stamps = [start_ms + t for t in times_ms]
    return {
        "rideID": drive_id,
        "id": drive_id,
        "filename": f"{drive_id}.mov",
        "startTime": stamps[0],
        "endTime": stamps[-1],
        "locations": [_location(t, ego) for t, ego in zip(stamps, egos, strict=True)],
        "gyro": [
            {"x": 0.0, "y": 0.0, "z": ego.yaw_rate_radps, "timestamp": t}
            for t, ego in zip(stamps, egos, strict=True)
        ],
        "accelerometer": _accelerometer(stamps, egos),
    }


def _location(stamp_ms: int, ego: EgoState) -> dict[str, Any]:
    latitude, longitude = latitude_longitude_deg(ego.x_m, ego.y_m)
    return {
        "timestamp": stamp_ms,
        "latitude": latitude,
        "longitude": longitude,
        "speed": ego.speed_mps,
        "course": course_deg(ego.heading_rad),
        "accuracy": LOCATION_ACCURACY_M,
    }


def _accelerometer(stamps: Sequence[int], egos: Sequence[EgoState]) -> list[dict[str, Any]]:
    speeds = np.array([ego.speed_mps for ego in egos])
    forward = np.gradient(speeds, np.array(stamps) / 1000.0) if len(egos) > 1 else np.zeros(1)
    return [
        {
            "x": float(a) / GRAVITY_MPS2,
            "y": ego.speed_mps * ego.yaw_rate_radps / GRAVITY_MPS2,
            "z": 1.0,
            "timestamp": t,
        }
        for t, a, ego in zip(stamps, forward, egos, strict=True)
    ]


class DriveWriter:
    """Writes one drive; `commit` makes it appear, leaving the block without it leaves nothing."""

    def __init__(
        self, root: Path, split: str, drive_id: str, *, seed: int, fps: int, crf: int = 12
    ) -> None:
        self._root, self._split, self._id = root, split, drive_id
        self._start_ms = EPOCH_MS + seed * DRIVE_SPACING_MS
        self._fps, self._crf = fps, crf
        self._times_ms: list[int] = []
        self._egos: list[EgoState] = []
        for path in (video_path(root, split, drive_id), info_path(root, split, drive_id)):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._video_part = part_of(video_path(root, split, drive_id))
        self._container: Any = None
        self._stream: Any = None

    def add(self, seen: Observation) -> None:
        """Append one frame and its state."""
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(seen.frame), format="rgb24")
        frame.pts = len(self._egos)
        with said_plainly(self._video_part):
            if self._container is None:
                self._open(seen.frame)
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        self._times_ms.append(round(seen.sim_time_us / 1000))
        self._egos.append(seen.ego)

    def commit(self) -> None:
        """Finish both files and give them their names, the info file last."""
        content = info(self._id, self._start_ms, self._times_ms, self._egos)
        video_file = video_path(self._root, self._split, self._id)
        with said_plainly(self._video_part):
            for packet in self._stream.encode():
                self._container.mux(packet)
            self._close()
            os.replace(self._video_part, video_file)
        try:
            write_whole(info_path(self._root, self._split, self._id), to_json(content))
        except Unavailable:
            video_file.unlink()  # the two are one drive
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with said_plainly(self._video_part):
                self._close()
        finally:
            self._video_part.unlink(missing_ok=True)

    def _open(self, frame: npt.NDArray[np.uint8]) -> None:
        height, width, _ = frame.shape
        self._container = create_video(self._video_part, "mov")
        self._stream = self._container.add_stream("libx264", rate=self._fps)
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.thread_count = 1  # the simulators next door want the cores
        self._stream.options = {"crf": str(self._crf), "preset": "veryfast"}

    def _close(self) -> None:
        container, self._container = self._container, None
        if container is not None:
            container.close()
