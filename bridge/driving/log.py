"""What a drive leaves in figures: one JSON line per frame, and a summary.

The lines go to a hidden neighbour and get their name when the drive ends, however it ends.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np

from bridge.driving.loop import Moment
from bridge.driving.measures import ROAD_SHARE, Divergence
from sim_stream.errors import Unavailable
from sim_stream.outputs import part_of, said_plainly
from sim_stream.plain_json import to_json

WRITE_BYTES = 8192
AT_FRAMES = (1, 4, 8, 16, 32, 64)  # where the summary says how far the pictures are apart
LOST_S = 1.0  # a lane unseen for so long is lost; a frame or two without a marking are not


def line(moment: Moment, measured: Divergence) -> dict[str, Any]:
    """One frame's JSON line; null is what the world does not know."""
    values = {
        **dataclasses.asdict(measured),
        "sim_time_us": moment.simulated.sim_time_us,
        "action": dataclasses.asdict(moment.action),
        "control": dataclasses.asdict(moment.control),
        "ego": dataclasses.asdict(moment.simulated.ego),
        "end": moment.simulated.end,
        "approximated": moment.predicted.approximated,
        "timings_ms": {k: v / 1e6 for k, v in moment.predicted.timings_ns.items()},
    }
    return dict(_plain(values))


def _plain(value: Any) -> Any:
    """Rounded, and null instead of NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 4)
    return value


class DriveLog:
    """JSON lines of one drive, and its figures; `close` makes the file appear under its name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = part_of(path)
        with said_plainly(path):
            self._file: IO[bytes] = self._part.open("wb", buffering=0)
        self._waiting = bytearray()
        self.frames: list[Divergence] = []
        self._end = ""

    def add(self, moment: Moment, measured: Divergence) -> None:
        """Raises Unavailable where lines cannot be written; those before them stay whole."""
        self._waiting += f"{to_json(line(moment, measured))}\n".encode()
        if len(self._waiting) >= WRITE_BYTES:
            self._write_out()
        self.frames.append(measured)
        self._end = moment.simulated.end

    def summary(self, frame_s: float) -> dict[str, Any]:
        """The drive in a few figures; the seed frame does not count."""
        predicted = self.frames[1:]
        both = [f for f in predicted if not math.isnan(f.psnr_db)]
        found: dict[str, Any] = {
            "frames": len(predicted),
            "frames_of_both": len(both),
            "end": self._end or "length",
        }
        if both:
            found |= _pictures(both) | _roads(predicted, both, frame_s)
            found["gap_m"] = both[-1].gap_m
        return dict(_plain(found))

    def close(self) -> None:
        """Gives the file its name, if it holds anything. Raises Unavailable."""
        try:
            self._write_out()
        finally:
            self._file.close()
            if self.frames:
                self._part.replace(self._path)
            else:
                self._part.unlink()

    def _write_out(self) -> None:
        lines, self._waiting = bytes(self._waiting), bytearray()
        start, done = self._file.tell(), 0
        try:
            with said_plainly(self._path):
                while done < len(lines):  # a disk that is nearly full takes a part first
                    done += self._file.write(lines[done:])
        except Unavailable:
            self._file.truncate(start + lines.rfind(b"\n", 0, done) + 1)
            raise


def _pictures(predicted: list[Divergence]) -> dict[str, Any]:
    psnr_db = {f.index: f.psnr_db for f in predicted}
    return {
        "psnr_db": float(np.mean(list(psnr_db.values()))),
        "difference": float(np.mean([f.difference for f in predicted])),
        "psnr_db_at": {str(at): psnr_db[at] for at in AT_FRAMES if at in psnr_db},
    }


def _roads(predicted: list[Divergence], both: list[Divergence], frame_s: float) -> dict[str, float]:
    """How long each world stayed on the road, at most as long as it was driven.

    `lane_neural_s`: until for a whole second no lane was found by its markings in predicted frames.
    """
    found = {
        "lane_neural_s": frame_s * lane_lost_at(predicted, round(LOST_S / frame_s)),
        "asphalt_neural_s": frame_s * first_not(_asphalt(f.asphalt_neural) for f in predicted),
        "asphalt_simulator_s": frame_s * first_not(_asphalt(f.asphalt_simulator) for f in both),
    }
    known = [f for f in both if f.on_road is not None]
    if known:
        offsets_m = [abs(f.lane_offset_m) for f in known]
        found["on_road_s"] = frame_s * first_not(bool(f.on_road) for f in known)
        found["lane_offset_m_median"] = float(np.median(offsets_m))
        found["lane_offset_m_max"] = max(offsets_m)
    return found


def lane_lost_at(predicted: list[Divergence], in_a_row: int) -> int:
    """How many frames there are before the first of so many without a lane."""
    missing = 0
    for count, frame in enumerate(predicted, start=1):
        missing = missing + 1 if math.isnan(frame.lane_neural[1]) else 0
        if missing == in_a_row:
            return count - in_a_row
    return len(predicted)


def _asphalt(share: float) -> bool:
    return share >= ROAD_SHARE


def first_not(values: Iterable[bool]) -> int:
    """How many are true before the first that is not."""
    return sum(1 for _ in itertools.takewhile(bool, values))
