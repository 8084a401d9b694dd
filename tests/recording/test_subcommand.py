"""The command line records and replays, as a user runs it, on the shipped model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sim_stream.recording.load import load
from sim_stream.server_process import ServerProcess
from sim_stream.video import SAMPLE, read_clip
from sim_stream.wire.client.blocking_client import StreamClient
from tests.recording.conftest import has_ended, recorded, wait_until
from tests.wire.conftest import ROOT
from tests.wire.toy import drive

TIMEOUT_S = 180.0


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sim_stream", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server that records, and its folder with a finished recording of five frames."""
    folder = tmp_path_factory.mktemp("recordings")
    options = ("--record", str(folder), "--step-engine", "torch", "--decoding", "diagonal:4")
    with ServerProcess(options) as process:
        with (
            StreamClient(process.endpoint) as client,
            client.open(read_clip(SAMPLE), seed=5) as session,
        ):
            for action in drive(3):
                session.step(action)
        wait_until(lambda: has_ended(folder))
        path = recorded(folder).rename(folder / "drive.jsonl")
        yield process.endpoint, path


@pytest.fixture
def changed(server: tuple[str, Path]) -> Iterator[Path]:
    """A copy of the sidecar, beside the files it names, for a test to change."""
    _, path = server
    copy = path.with_stem("changed")
    copy.write_bytes(path.read_bytes())
    yield copy
    copy.unlink()


def rewrite(path: Path, line: int, old: str, new: str) -> None:
    lines = path.read_text().splitlines(keepends=True)
    assert old in lines[line]
    lines[line] = lines[line].replace(old, new)
    path.write_text("".join(lines))


def test_recording_replays_equal_on_a_server_started_as_the_recording_says(
    server: tuple[str, Path],
) -> None:
    _, path = server
    assert load(path).header.options["step_engine"] == "torch"
    done = command("replay", path, "--json")
    assert done.returncode == 0, done.stderr
    said, report = done.stdout.splitlines()[0], json.loads(done.stdout.splitlines()[-1])
    assert "5 of 5 frames are equal" in said and "seed 5" in said
    assert (report["same"], report["frames"], report["intact_pixels"]) == (True, 5, 5)


def test_recording_of_a_fork_with_a_seed_replays_on_a_server_of_its_own(
    server: tuple[str, Path],
) -> None:
    endpoint, path = server
    with StreamClient(endpoint) as client, client.open(read_clip(SAMPLE), seed=5) as parent:
        parent.step(drive(1)[0])
        with parent.fork(seed=9) as child:
            child.step(drive(2)[1])
            child.step()
    wait_until(lambda: has_ended(path.parent, child.sid) and has_ended(path.parent, parent.sid))
    done = command("replay", recorded(path.parent, child.sid))
    assert done.returncode == 0, done.stderr
    assert "5 of 5 frames are equal" in done.stdout


def test_recording_with_another_action_differs_and_the_first_frame_is_named(
    server: tuple[str, Path], changed: Path
) -> None:
    endpoint, _ = server
    rewrite(changed, 3, '"speed_mps":7.0', '"speed_mps":30.0')
    done = command("replay", changed, "--connect", endpoint)
    assert done.returncode == 1, done.stderr
    assert "first difference: step 2, frame 1" in done.stdout


def test_recording_of_other_weights_is_refused_naming_both(
    server: tuple[str, Path], changed: Path
) -> None:
    endpoint, path = server
    weights = load(path).header.info.spec.weights_sha256
    rewrite(changed, 0, weights, "f" * 64)
    done = command("replay", changed, "--connect", endpoint)
    assert done.returncode == 2
    assert weights in done.stderr and "f" * 64 in done.stderr


def test_demo_records_as_mcap_what_replays_equal(server: tuple[str, Path], tmp_path: Path) -> None:
    endpoint, _ = server
    folder = tmp_path / "recordings"
    options = ("--frames", "3", "--pace", "0", "--out", tmp_path / "demo.mp4")
    options += ("--step-engine", "torch", "--decoding", "diagonal:4")  # as the fixture's server
    done = command("demo", *options, "--record", folder, "--record-format", "mcap")
    assert done.returncode == 0, done.stderr
    replayed = command("replay", recorded(folder), "--connect", endpoint, "--json")
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    report = json.loads(replayed.stdout.splitlines()[-1])
    assert (report["same"], report["frames"], report["intact_pixels"]) == (True, 5, 5)


def test_folder_that_is_a_file_is_refused_before_the_model_loads(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = command("serve", "--record", tmp_path / "file")
    assert done.returncode == 2
    assert done.stderr.startswith("sim-stream serve: record: got")
