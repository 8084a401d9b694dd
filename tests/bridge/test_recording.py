"""Recording many drives: resume, cut-off, failing scenes, short drives, the command line."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from bridge.__main__ import main
from bridge.painted import PaintedWorld
from bridge.recording.drives import MIN_FRAMES, Drive
from bridge.recording.run import LOG, Recording, append_line, finished
from bridge.worlds import Control, Observation, SceneFailed
from sim_stream.errors import InvalidInput, Unavailable

ROOT = Path(__file__).resolve().parents[2]


def drives(count: int, frames: int = 30) -> list[Drive]:
    return [
        Drive(drive_id=f"p{seed}", split="train", seed=seed, max_frames=frames)
        for seed in range(count)
    ]


def straying(count: int) -> list[Drive]:
    return [dataclasses.replace(drive, stray=True) for drive in drives(count)]


def recording(root: Path, world: type[PaintedWorld] = PaintedWorld, workers: int = 2) -> Recording:
    return Recording(root=root, open_world=lambda: world(size_px=16), workers=workers)


def names(root: Path, pattern: str) -> set[str]:
    return {path.stem for path in root.rglob(pattern)}


class CrashesEarly(PaintedWorld):
    """Every drive ends a frame before it is long enough."""

    def step(self, control: Control) -> Observation:
        seen = super().step(control)
        short = seen.sim_time_us == (MIN_FRAMES - 2) * 250_000
        return Observation(**{**vars(seen), "done": short, "end": "crash" if short else ""})


class LeavesAtOnce(PaintedWorld):
    """Off the road from the second frame on."""

    def step(self, control: Control) -> Observation:
        return Observation(**{**vars(super().step(control)), "done": True, "end": "off_road"})


class FailsOnSeed2(PaintedWorld):
    def reset(self, seed: int) -> Observation:
        if seed == 2:
            raise SceneFailed("this scene cannot be built")
        return super().reset(seed)


class FailsAlways(PaintedWorld):
    def reset(self, seed: int) -> Observation:
        raise SceneFailed("no scene can be built")


class Breaks(PaintedWorld):
    def step(self, control: Control) -> Observation:
        raise ZeroDivisionError


def test_every_drive_leaves_two_files_and_a_line(tmp_path: Path) -> None:
    totals = recording(tmp_path).run(drives(5))
    ids = {f"p{seed}" for seed in range(5)}
    assert names(tmp_path, "*.mov") == names(tmp_path, "*.json") == set(finished(tmp_path)) == ids
    assert (totals["drives"], totals["frames"], totals["dropped"]) == (5, 150, 0)
    line = finished(tmp_path)["p3"]
    assert line["kept"] and line["frames"] == 30 and line["end"] == "length" and line["seed"] == 3
    assert line["speed_mps"]["min"] <= line["speed_mps"]["p50"] <= line["speed_mps"]["max"]


def test_recording_twice_gives_equal_drives(tmp_path: Path) -> None:
    for name in ("a", "b"):
        recording(tmp_path / name).run(drives(2))
    first, again = (next((tmp_path / name).rglob("p1.json")).read_bytes() for name in "ab")
    assert first == again
    # Of equal pixels libav makes other bytes now and then when two encoders run.
    first, again = (pixels(next((tmp_path / name).rglob("p1.mov"))) for name in "ab")
    assert first.shape == again.shape and np.abs(first - again).mean() < 1.0


def pixels(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames).astype(float)


def test_a_second_run_records_only_what_is_missing(tmp_path: Path) -> None:
    recording(tmp_path).run(drives(2))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mov")}
    totals = recording(tmp_path).run(drives(4))
    assert (totals["drives"], totals["already_recorded"]) == (2, 2)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_log_line_that_was_cut_off_does_not_count_and_does_not_spoil_the_next(
    tmp_path: Path,
) -> None:
    append_line(tmp_path, {"id": "whole"})
    with (tmp_path / LOG).open("ab") as log:
        log.write(b'{"id": "half')
    append_line(tmp_path, {"id": "next"})
    assert set(finished(tmp_path)) == {"whole", "next"}


def test_a_short_drive_is_logged_and_leaves_no_files(tmp_path: Path) -> None:
    totals = recording(tmp_path, CrashesEarly).run(drives(2))
    assert (totals["drives"], totals["dropped"], totals["ends"]) == (0, 2, {"crash": 2})
    assert not names(tmp_path, "*.mov") and not names(tmp_path, "*.part")
    assert not finished(tmp_path)["p0"]["kept"]


def test_a_drive_that_strays_goes_on_beside_the_road(tmp_path: Path) -> None:
    totals = recording(tmp_path, LeavesAtOnce).run(straying(2))
    assert (totals["drives"], totals["ends"]) == (2, {"length": 2})
    assert all(line["stray"] and line["frames"] == 30 for line in finished(tmp_path).values())


def test_any_other_drive_ends_where_it_leaves_the_road(tmp_path: Path) -> None:
    totals = recording(tmp_path, LeavesAtOnce).run(drives(2))
    assert (totals["drives"], totals["dropped"], totals["ends"]) == (0, 2, {"off_road": 2})
    assert not any(line["stray"] for line in finished(tmp_path).values())


def test_a_drive_that_strays_ends_with_a_crash_like_any_other(tmp_path: Path) -> None:
    totals = recording(tmp_path, CrashesEarly).run(straying(2))
    assert totals["ends"] == {"crash": 2}


def test_a_scene_that_fails_is_logged_and_the_others_are_recorded(tmp_path: Path) -> None:
    totals = recording(tmp_path, FailsOnSeed2).run(drives(5))
    assert (totals["drives"], totals["dropped"]) == (4, 1)
    assert finished(tmp_path)["p2"]["end"] == "failed"
    assert "p2" not in names(tmp_path, "*.mov")


def test_a_simulator_that_always_fails_stops_the_recording(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="in a row"):
        recording(tmp_path, FailsAlways, workers=1).run(drives(9))
    assert len(finished(tmp_path)) == 3


def test_an_unexpected_error_is_raised_and_leaves_no_files(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        recording(tmp_path, Breaks).run(drives(3))
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == set()


def test_no_workers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="workers"):
        recording(tmp_path, workers=0)


def command(root: Path, *more: str) -> list[str]:
    base = ["record", "--world", "painted", "--out", str(root), "--split", "val", "--size", "16"]
    return [*base, *more]


def last_line(text: str) -> dict[str, Any]:
    return dict(json.loads(text.splitlines()[-1]))


def test_the_command_ends_in_one_json_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tmp_path, "--drives", "2", "--frames", "24")) == 0
    totals = last_line(capsys.readouterr().out)
    assert (totals["split"], totals["drives"], totals["frames"]) == ("val", 2, 48)
    assert names(tmp_path, "*.mov") == {"painted-090000", "painted-090001"}


def test_the_command_names_straying_drives_by_themselves(tmp_path: Path) -> None:
    assert main(command(tmp_path, "--drives", "1", "--frames", "24")) == 0
    assert main(command(tmp_path, "--drives", "1", "--frames", "24", "--stray")) == 0
    assert names(tmp_path, "*.mov") == {"painted-090000", "painted-stray-090000"}


def test_the_command_names_a_bad_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(tmp_path, "--drives", "2", "--frames", "5")) == 2
    assert "--frames: got 5; allowed: 24 or more" in capsys.readouterr().err


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_leaves_only_whole_drives_and_the_same_command_continues(
    tmp_path: Path, stop: signal.Signals
) -> None:
    arguments = command(tmp_path, "--drives", "400", "--frames", "400")
    process = subprocess.Popen(
        [sys.executable, "-m", "bridge", *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    deadline_s = time.monotonic() + 60
    while len(finished(tmp_path)) < 2 and time.monotonic() < deadline_s:
        time.sleep(0.05)
    process.send_signal(stop)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + stop and "stopped" in errors
    done = {drive_id for drive_id, line in finished(tmp_path).items() if line["kept"]}
    assert 2 <= len(finished(tmp_path)) < 400
    assert names(tmp_path, "*.mov") == names(tmp_path, "*.json") == done
    assert not names(tmp_path, "*.part")
    few = command(tmp_path, "--drives", "2", "--frames", "400")
    assert main(few) == 0
