"""Many drives over several workers: resumable, stoppable, with one log line per finished drive.

Each worker is a thread that owns one World; the simulators themselves run in processes. A drive is
finished when its line stands in drives.jsonl, which is written after its files, so an interrupted
drive is recorded again. This module does not know which simulator it runs.
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bridge.recording.drives import Drive, Stopped, failed_line, record_drive
from bridge.worlds import RoadWorld, SceneFailed
from sim_stream.errors import InvalidInput, Unavailable
from sim_stream.plain_json import to_json

LOG = "drives.jsonl"
DRIVES_PER_WORLD = 40  # a fresh process now and then bounds what a simulator leaks
FAILURES_IN_A_ROW = 3  # a scene may fail by itself; this many mean that the simulator does


def finished(root: Path) -> dict[str, dict[str, Any]]:
    """The log's lines by drive id; a line cut off by a crash does not count."""
    log = root / LOG
    lines: dict[str, dict[str, Any]] = {}
    if not log.exists():
        return lines
    for raw in log.read_bytes().split(b"\n"):
        try:
            line = json.loads(raw)
        except ValueError:
            continue
        if isinstance(line, dict) and "id" in line:
            lines[line["id"]] = line
    return lines


def append_line(root: Path, line: dict[str, Any]) -> None:
    """Append one line in one write, so that two recordings may share a log."""
    data = to_json(line, sort_keys=True).encode() + b"\n"
    log = os.open(root / LOG, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(log).st_size
        if size and os.pread(log, 1, size - 1) != b"\n":  # an earlier write was cut off
            data = b"\n" + data
        os.write(log, data)
    finally:
        os.close(log)


class Recording:
    """One `record` command: `run` returns its totals; KeyboardInterrupt leaves no half files."""

    def __init__(
        self, *, root: Path, open_world: Callable[[], RoadWorld], workers: int, crf: int = 12
    ) -> None:
        if workers < 1:
            raise InvalidInput("workers", workers, "1 or more")
        self._root, self._open_world, self._workers, self._crf = root, open_world, workers, crf
        self._stop = threading.Event()
        self._todo: queue.SimpleQueue[Drive] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[dict[str, Any] | BaseException | None] = (
            queue.SimpleQueue()
        )

    def run(self, drives: list[Drive]) -> dict[str, Any]:
        """Record what the log does not hold yet; a worker's error stops all and is raised."""
        self._root.mkdir(parents=True, exist_ok=True)
        done = finished(self._root)
        todo = [drive for drive in drives if drive.drive_id not in done]
        for drive in todo:
            self._todo.put(drive)
        start_s = time.monotonic()
        lines = self._collect(len(todo), len(drives))
        return _totals(lines, skipped=len(drives) - len(todo), wall_s=time.monotonic() - start_s)

    def _collect(self, todo: int, total: int) -> list[dict[str, Any]]:
        threads = [
            threading.Thread(target=self._work, name=f"recorder-{i}")
            for i in range(min(self._workers, todo))
        ]
        for thread in threads:
            thread.start()
        lines: list[dict[str, Any]] = []
        running, frames, start_s = len(threads), 0, time.monotonic()
        try:
            with tqdm(total=total, initial=total - todo, unit="drive", desc="record") as bar:
                while running:
                    result = self._results.get()
                    if result is None:
                        running -= 1
                        continue
                    if isinstance(result, BaseException):
                        raise result
                    lines.append(result)
                    frames += result["frames"]
                    bar.set_postfix(frames=frames, fps=frames / (time.monotonic() - start_s))
                    bar.update()
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
        return lines

    def _work(self) -> None:
        failures = 0
        try:
            while not self._stop.is_set() and not self._todo.empty():
                with closing(self._open_world()) as world:
                    failures = failures + 1 if self._record_some(world) else 0
                if failures >= FAILURES_IN_A_ROW:
                    raise Unavailable(f"{failures} worlds in a row failed; see {LOG}")
        except Stopped:
            pass  # the drive left nothing; the loop that set the event knows why
        except BaseException as error:  # handed to the main thread, which raises it
            self._results.put(error)
        self._results.put(None)

    def _record_some(self, world: RoadWorld) -> bool:
        """Record until the world is due for renewal; whether a scene failed before any success."""
        for count in range(DRIVES_PER_WORLD):
            try:
                drive = self._todo.get_nowait()
            except queue.Empty:
                return False
            try:
                line = record_drive(world, drive, self._root, crf=self._crf, stop=self._stop)
            except SceneFailed as error:  # the log keeps it, so the next run does not try again
                self._finish(failed_line(drive, error))
                return count == 0
            self._finish(line)
        return False

    def _finish(self, line: dict[str, Any]) -> None:
        append_line(self._root, line)
        self._results.put(line)


def _totals(lines: list[dict[str, Any]], *, skipped: int, wall_s: float) -> dict[str, Any]:
    kept = [line for line in lines if line["kept"]]
    frames = sum(line["frames"] for line in kept)
    ends: dict[str, int] = {}
    for line in lines:
        ends[line["end"]] = ends.get(line["end"], 0) + 1
    return {
        "drives": len(kept),
        "dropped": len(lines) - len(kept),
        "already_recorded": skipped,
        "frames": frames,
        "wall_s": round(wall_s, 1),
        "frames_per_s": round(frames / wall_s, 2) if wall_s > 0 else 0.0,
        "ends": ends,
    }
