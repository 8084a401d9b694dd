"""Arrays in recordings that somebody else made: each is what its line and the header's spec say, or
the recording is refused by name before room is made for it."""

from __future__ import annotations

import base64
import json
import os
import resource
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim_stream.errors import InvalidInput
from sim_stream.recording import arrays, bounds
from sim_stream.recording.archive import RecordedSessions
from sim_stream.recording.load import load
from sim_stream.recording.recorder import Recorder
from sim_stream.recording.replay import replay
from sim_stream.wire.client.blocking_client import StreamClient
from sim_stream.wire.observe import NotResumable
from sim_stream.wire.server.server import StreamServer
from tests.recording.conftest import LOCAL, recorded
from tests.recording.test_strangers import (
    everything,
    lines_of,
    mutated,
    rewritten,
    spec_of,
    write_lines,
)
from tests.wire.conftest import TIMEOUT_S
from tests.wire.toy_worlds import map_world, semantic

START = np.random.default_rng(0).integers(0, 256, (2, 24, 32, 3), np.uint8)
MIB = 2**20


def record(folder: Path, form: str = "ffv1", steps: int = 3) -> Path:
    """A session whose prompt frames and steps came with maps."""
    with (
        Recorder(folder, by="server", form=form) as recorder,
        StreamServer(map_world(), bind=LOCAL, observer=recorder) as server,
        StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as client,
        client.open(START, prompt_inputs=[{"semantic": semantic(key)} for key in (8, 9)]) as one,
    ):
        for key in range(steps):
            one.step({"semantic": semantic(key), "speed_mps": 1.0})
    return recorded(folder)


def arrays_of(path: Path) -> Path:
    return path.with_suffix(".arrays")


def step_array(lines: list[Any], step: int = 1) -> dict[str, Any]:
    """What the line of that step says of its one array."""
    (kept,) = lines[1 + step]["arrays"]
    return kept


CHANGES = {
    "dtype": lambda lines: step_array(lines).update(dtype="<f4"),
    "unknown dtype": lambda lines: step_array(lines).update(dtype="|O"),
    "shape": lambda lines: step_array(lines).update(shape=[32, 24]),
    "flat": lambda lines: step_array(lines).update(shape=[768]),
    "huge": lambda lines: step_array(lines).update(shape=[2**31 - 1] * 8),
    "name": lambda lines: step_array(lines).update(name="inputs.lidar"),
    "of the prompt": lambda lines: step_array(lines).update(name="prompt.semantic"),
    "twice": lambda lines: lines[2]["arrays"].append(step_array(lines) | {"first": 10**6}),
    "many": lambda lines: lines[2]["arrays"].extend([step_array(lines)] * 16),
    "stored": lambda lines: step_array(lines).update(stored=10**9),
    "nothing stored": lambda lines: step_array(lines).update(stored=0),
    "cut": lambda lines: step_array(lines).update(stored=step_array(lines)["stored"] - 1),
    "negative": lambda lines: step_array(lines).update(first=-1),
    "elsewhere": lambda lines: step_array(lines).update(first=step_array(lines)["first"] + 1),
    "far beyond": lambda lines: step_array(lines, 3).update(first=2**63 - 1),
    "the same again": lambda lines: lines[3].update(arrays=lines[2]["arrays"]),
    "sha256": lambda lines: step_array(lines).update(sha256="0" * 64),
    "missing": lambda lines: lines[2].update(arrays=[]),
    "of another prompt": lambda lines: lines[1]["arrays"][0].update(shape=[1, 24, 32]),
    "speed": lambda lines: lines[2]["request"]["inputs"].update(speed_mps="fast"),
    "unknown input": lambda lines: lines[2]["request"]["inputs"].update(lidar=1.0),
    "array as a number": lambda lines: lines[2]["request"]["inputs"].update(semantic=1.0),
    "fewer classes": lambda lines: spec_of(lines)["step_inputs"][0].update(values=3),
    "a larger map": lambda lines: spec_of(lines)["step_inputs"][0].update(shape=[24, 33]),
    "no frames": lambda lines: lines[2].update(frames=[], sha256=[]),
    "a frame without hash": lambda lines: lines[2].update(sha256=[]),
    "no prompt": lambda lines: lines[1].update(prompt=None, arrays=[]),
    "a longer prompt": lambda lines: spec_of(lines).update(prompt_frames=[3, 4]),
    "option": lambda lines: lines[1]["request"].update(options={"temperature": 1.0}),
    "session input": lambda lines: lines[1]["request"].update(inputs={"weather": "rain"}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_values_that_the_recorded_spec_does_not_allow_are_refused(tmp_path, what):
    path = record(tmp_path)
    lines = lines_of(path)
    CHANGES[what](lines)
    write_lines(path, lines)
    if what in ("unknown dtype", "many", "negative"):  # no line: it ends what is read
        assert len(load(path).shown) == 1
        return
    with pytest.raises(InvalidInput, match="recording: got") as caught:
        everything(path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("form", ["ffv1", "mcap"])
def test_replay_and_resume_name_the_array_that_is_not_the_recorded_one(tmp_path, form):
    path = record(tmp_path, form)
    sid = load(path).header.sid
    changed = semantic(77)
    if form == "mcap":
        rewritten(path, path, lambda topic, data: other(data) if topic == "/arrays" else data)
    else:
        spoil(path, changed)
    other_bytes = r"prompt\.semantic: got other bytes"
    with (
        StreamServer(map_world(), bind=LOCAL) as server,
        pytest.raises(InvalidInput, match=other_bytes),
    ):
        replay(load(path), server.endpoint)
    if form == "mcap":
        return
    write_lines(path, lines_of(path)[:-1])  # not closed
    with pytest.raises(NotResumable, match=other_bytes):
        RecordedSessions(tmp_path).find(sid, model_id="toy-map", weights_sha256="1" * 64)


def other(data: bytes) -> bytes:
    """As many bytes that are stored, of another array."""
    message = json.loads(data)
    stored = len(base64.b64decode(message["data"]))
    zeros = zlib.compress(np.ones(message["shape"], np.uint8).tobytes(), 0)
    return json.dumps(message | {"data": base64.b64encode(zeros[:stored]).decode()}).encode()


def spoil(path: Path, changed: np.ndarray) -> None:
    """Another array, well packed, in place of the first."""
    lines = lines_of(path)
    kept = lines[1]["arrays"][0]
    packed = zlib.compress(np.stack([changed, changed]).tobytes(), 1)
    whole = bytearray(arrays_of(path).read_bytes())
    assert len(packed) <= kept["stored"]
    whole[: len(packed)] = packed
    arrays_of(path).write_bytes(whole)
    kept["stored"] = len(packed)
    write_lines(path, lines)


def test_an_array_that_unpacks_to_gigabytes_is_not_unpacked():
    small = np.zeros((24, 32), np.uint8)
    kept = arrays.kept_as("inputs.semantic", small, first=0, stored=800)
    np.testing.assert_array_equal(arrays.unpacked(kept, arrays.packed(small)), small)
    bomb = zlib.compress(bytes(512 * MIB), 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in (bomb, bomb[:800], b"", b"x", arrays.packed(small) + b"x"):
        with pytest.raises(InvalidInput, match=r"inputs\.semantic: got"):
            arrays.unpacked(kept, data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_arrays_of_one_request_have_a_bound_whatever_the_spec_says(tmp_path, monkeypatch):
    path = record(tmp_path)
    monkeypatch.setattr(arrays, "ARRAYS_BYTES", 2 * 24 * 32 - 1)
    with pytest.raises(InvalidInput, match=r"arrays: got 1536 bytes"):
        load(path)
    assert bounds.ARRAYS_BYTES == 64 * MIB


@pytest.mark.parametrize("how", ["gone", "a link", "a pipe", "a folder", "cut off", "empty"])
def test_a_file_of_arrays_that_is_none_is_named(tmp_path, how):
    path = record(tmp_path)
    file = arrays_of(path)
    whole = file.read_bytes()
    file.unlink()
    if how == "a link":
        secret = tmp_path.parent / f"{tmp_path.name}-secret"
        secret.write_bytes(whole)
        file.symlink_to(secret)
    elif how == "a pipe":
        os.mkfifo(file)
    elif how == "a folder":
        file.mkdir()
    elif how != "gone":
        file.write_bytes(whole[:-1] if how == "cut off" else b"")
    with pytest.raises(InvalidInput, match=f"recording: got .*{file.stem}") as caught:
        everything(path)
    assert caught.value.__cause__ is not caught.value  # its chain has an end


@pytest.mark.parametrize("name", ["../x.arrays", "/etc/passwd", "", ".", "a\0b", "x" * 300])
def test_names_of_arrays_lead_nowhere_else(tmp_path, name):
    path = record(tmp_path)
    lines = lines_of(path)
    lines[0]["arrays"] = name
    write_lines(path, lines)
    with pytest.raises(InvalidInput):
        everything(path)


def test_arrays_are_renamed_along_with_their_recording(tmp_path):
    path = record(tmp_path)
    for file in tmp_path.glob(f"{path.stem}*"):
        file.rename(file.with_name(file.name.replace(path.stem, "rainy drive")))
    with StreamServer(map_world(), bind=LOCAL) as server:
        assert replay(load(tmp_path / "rainy drive.jsonl"), server.endpoint).same


@pytest.mark.parametrize("compression", ["ZSTD", "LZ4", "NONE"])
def test_arrays_of_an_mcap_file_are_read_as_a_tool_has_rewritten_it(tmp_path, compression):
    path = record(tmp_path, "mcap")
    copy = tmp_path / "recovered.mcap"
    rewritten(path, copy, compression=compression)
    with StreamServer(map_world(), bind=LOCAL) as server:
        assert replay(load(copy), server.endpoint).same
        rewritten(path, copy, without=("/arrays",))
        with pytest.raises(InvalidInput, match=r"recovered\.mcap \(no prompt\.semantic\)"):
            replay(load(copy), server.endpoint)


@pytest.mark.parametrize("seed", [2**64, -1, "1"])
def test_seeds_of_forks_are_seeds(tmp_path, seed):
    path = record(tmp_path)
    lines = lines_of(path)
    fork = {"kind": "forked", "parent": path.name, "parent_lines": 3, "committed_step": 1}
    child = tmp_path / "child.jsonl"
    write_lines(child, [lines[0], fork | {"seed": 3}])
    assert load(child).runs[0].forks == {1: 3}
    write_lines(child, [lines[0], fork | {"seed": seed}])
    with pytest.raises(InvalidInput):
        load(child)


@pytest.mark.parametrize("found", [1, 3, 10**15])
def test_another_format_is_refused_by_its_number(tmp_path, found):
    path = record(tmp_path)
    lines = lines_of(path)
    lines[0] = {"kind": "header", "format": found, "by": "server", "sid": "s", "info": {"v": 1}}
    write_lines(path, lines)
    with pytest.raises(InvalidInput, match=rf"of format {found}; allowed: format 2"):
        load(path)


def steps_arrays(path: Path) -> list[bytes]:
    (run,) = load(path).runs
    return [array.tobytes() for step in run.steps() for array in step.arrays.values()]


@pytest.mark.parametrize("which", ["lines", "arrays", "mcap"])
def test_mutations_are_read_or_refused(tmp_path, which):
    path = record(tmp_path, "mcap" if which == "mcap" else "ffv1", steps=2)
    target = arrays_of(path) if which == "arrays" else path
    whole, rng = target.read_bytes(), np.random.default_rng(21)
    good = steps_arrays(path)
    read = 0
    for _ in range(300):
        target.write_bytes(mutated(rng, whole))
        try:
            everything(path)
            found = steps_arrays(path)
        except InvalidInput as error:
            assert str(error)
        else:
            read += 1
            assert which == "lines" or found == good[: len(found)]
    assert read or which == "arrays"
