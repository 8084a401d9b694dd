"""Sets with what real disks hold: every name has its line, and the rest goes on."""

from __future__ import annotations

import json
import os
import signal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim_stream.config import FrameSize
from sim_stream.errors import SimStreamError, Unavailable
from tests.train.bdd100k_like import SIZE, SPEED_MPS, build, rows, write_info, write_mov
from train.cli import main
from train.data.ego import read_track
from train.data.manifest import ScanRules, read_manifest, scan
from train.data.plan import Sampling, make_plan
from train.data.sample import sample
from train.data.split import Split
from train.data.work import run_all

RULES = ScanRules(size=FrameSize.square(SIZE))
NOT_UTF8 = os.fsdecode(b"caf\xe9")
ODD_NAMES = ("rec 12:00:00", "-dash", "100%03d", "a'b\"c", "two\nlines", "münchen", NOT_UTF8)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("clip") / "clip.mov"
    write_mov(path, [i / 10 for i in range(20)], rate=Fraction(10))
    return path.read_bytes()


def scanned(root: Path, out: Path, workers: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    found = scan(root, out, "train", kind="videos", rules=RULES, workers=workers)
    return found, {row["id"]: row for row in read_manifest(Path(found["manifest"]))[1]}


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_no_file_has_its_line_and_the_rest_goes_on(
    tmp_path: Path, clip: bytes, workers: int
) -> None:
    folder = tmp_path / "set" / "videos" / "train"
    folder.mkdir(parents=True)
    (folder / "good.mov").write_bytes(clip)
    (folder / "nowhere.mov").symlink_to("/nonexistent/x.mov")
    (folder / "loop.mov").symlink_to("loop.mov")
    (folder / "folder.mov").mkdir()
    os.mkfifo(folder / "pipe.mov")
    (folder / "device.mov").symlink_to("/dev/null")
    (folder / "empty.mov").touch()
    found, lines = scanned(tmp_path / "set", tmp_path, workers)
    assert (found["files"], found["usable"]) == (7, 1)
    expected = {
        "nowhere": "a link to nothing", "folder": "a directory", "pipe": "a pipe",
        "device": "a device", "empty": "empty, 0 bytes",
    }  # fmt: skip
    assert {k: lines[k]["rejected"] for k in expected} == expected
    assert "symbolic links" in lines["loop"]["rejected"]
    # The disk is back: what could not be read is tried again.
    (folder / "nowhere.mov").unlink()
    (folder / "nowhere.mov").write_bytes(clip)
    assert scanned(tmp_path / "set", tmp_path)[0]["usable"] == 2


def test_odd_names_are_scanned_sampled_and_written_as_valid_json(
    tmp_path: Path, clip: bytes, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "set-12:00"
    folder = root / "videos" / "train"
    folder.mkdir(parents=True)
    for name in ODD_NAMES:
        (folder / f"{name}.mov").write_bytes(clip)
        write_info(root / "info" / "100k" / "train" / f"{name}.json", rows(2.0), 2.0)
    (folder / "bad\nname.mov").symlink_to("/nonexistent")
    monkeypatch.chdir(tmp_path)
    common = ["--splits", "train", "--workers", "0", "--size", str(SIZE)]
    assert main(["data", "scan", "--root", root.name, "--out", "lists", *common]) == 0
    shown = capfd.readouterr().out
    assert f"{len(ODD_NAMES)} of {len(ODD_NAMES) + 1} files usable" in shown
    assert "\n  rejected bad\\nname: a link to nothing\n" in shown
    assert main(["data", "sample", "--manifests", "lists", "--out", "cache", *common]) == 0
    for text in (Path("lists/manifest-videos-train.jsonl"), Path("cache/train/drives.json")):
        for line in text.read_text().splitlines():
            json.dumps(json.loads(line), ensure_ascii=False).encode()  # no lone surrogates
    split = Split.open(tmp_path / "cache", "train")
    assert len(split.drives) == len(ODD_NAMES)
    assert "caf\\xe9" in {drive.id for drive in split.drives}
    for drive in split.drives:  # each has its own info file's motion
        assert split.actions[drive.start + 1, 0] == pytest.approx(SPEED_MPS)


def test_joined_recordings_and_late_beginnings_are_rejected_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "videos" / "train"
    folder.mkdir(parents=True)
    write_ts = [write_part(tmp_path / f"{i}.ts", n) for i, n in enumerate((60, 30))]
    (folder / "joined.mov").write_bytes(write_ts[0] + write_ts[1])
    (folder / "late.mov").write_bytes(without_first(tmp_path, 5))
    (folder / "a-little-late.mov").write_bytes(without_first(tmp_path, 27))
    write_info(tmp_path / "set/info/100k/train/a-little-late.json", rows(4.0), 4.0)
    found, lines = scanned(tmp_path / "set", tmp_path)
    assert "time goes back by" in lines["joined"]["rejected"]
    assert "at frame 60" in lines["joined"]["rejected"]
    assert lines["late"]["rejected"].startswith("begins between key frames, 0.")
    assert found["usable"] == 1
    lead = float(Fraction(lines["a-little-late"]["lead_s"]))
    assert lead == pytest.approx(0.1, abs=0.08)
    sampling = Sampling(fps=4.0, size=FrameSize.square(SIZE))
    sample(Path(found["manifest"]), tmp_path / "c" / "train", sampling, workers=0)
    split = Split.open(tmp_path / "c", "train")
    assert np.diff(split.images(slice(0, 4)).astype(int), axis=0).any(axis=(1, 2, 3)).all()
    # Motion is taken at the pictures' times in the recording, not at those of the first picture.
    (task,) = make_plan(Path(found["manifest"]), sampling)
    assert float(task.lead_s) == lead


def write_part(path: Path, frames: int) -> bytes:
    import av

    from tests.train.bdd100k_like import picture

    with av.open(str(path), "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=30, options={"g": "30", "bf": "0"})
        stream.height, stream.width, stream.pix_fmt = 72, 96, "yuv420p"
        for i in range(frames):
            image = np.ascontiguousarray(picture(i / 30))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


def without_first(folder: Path, packets: int) -> bytes:
    import av

    whole, cut = folder / "whole.ts", folder / "cut.ts"
    write_part(whole, 90)
    with av.open(str(whole)) as source, av.open(str(cut), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(p for p in source.demux(video=0) if p.dts is not None):
            if number >= packets:
                packet.stream = stream
                out.mux(packet)
    return cut.read_bytes()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_was_damaged_after_the_scan_is_named(
    tmp_path: Path, clip: bytes, workers: int
) -> None:
    folder = tmp_path / "set" / "videos" / "train"
    folder.mkdir(parents=True)
    for name in ("a", "b", "c"):
        (folder / f"{name}.mov").write_bytes(clip)
    found, _ = scanned(tmp_path / "set", tmp_path)
    (folder / "b.mov").write_bytes(clip[: len(clip) // 2])
    with pytest.raises(SimStreamError, match=r"b\.mov"):
        sample(
            Path(found["manifest"]),
            tmp_path / "c",
            Sampling(fps=4.0, size=FrameSize.square(SIZE)),
            workers=workers,
        )


class Twofold(Exception):
    """As those of libraries whose constructors take more than their text."""

    def __init__(self, field: str, value: int) -> None:
        super().__init__(f"{field} is {value}")


def fails_twofold(item: int) -> int:
    raise Twofold("depth", item)


def test_an_error_that_cannot_be_pickled_arrives_as_its_text() -> None:
    with pytest.raises(Unavailable, match="7: Twofold: depth is 7"):
        list(run_all(fails_twofold, [7], 1))


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[" * 100_000, b"\xff\xfe{}", b"[]", b'{"startTime": 1e999}', b'{"startTime": true}',
        b'{"startTime": 1, "locations": {"a": 1}}', b'{"startTime": 1, "locations": 5}',
        b'{"startTime": 1, "locations": [1, null, {"timestamp": 1}]}',
        b'{"startTime": 1, "locations": [{"timestamp": 1, "course": 1, "speed": 1'
        + b"0" * 400 + b"}, {}]}",
        b'{"startTime": 1, "locations": [{"timestamp": NaN, "course": 1, "speed": 1}]}',
    ],
)  # fmt: skip
def test_an_info_file_that_says_nothing_leaves_the_motion_unknown(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "info.json").write_bytes(content)
    track, why = read_track(tmp_path / "info.json")
    assert track is None and why


def test_a_folder_in_an_info_files_place_is_no_info_file(tmp_path: Path) -> None:
    assert read_track(tmp_path) == (None, "no info file")


def test_a_manifest_of_other_rules_is_made_anew(tmp_path: Path) -> None:
    root = build(tmp_path / "set", seconds=4.0)
    assert "gap" in scanned(root, tmp_path)[0]["rejected"]
    wide = ScanRules(size=FrameSize.square(SIZE), max_gap_s=2.0)
    found = scan(root, tmp_path, "train", kind="videos", rules=wide, workers=0)
    assert "gap" not in found["rejected"]


def kill_at_two(item: int) -> int:
    if item == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return 10 * item


def test_a_worker_that_is_killed_names_the_item_it_was_at() -> None:
    with pytest.raises(Unavailable, match=r"killed by SIGKILL at 2"):
        list(run_all(kill_at_two, [2], 1))


def test_the_rest_goes_on_where_a_killed_worker_has_its_line() -> None:
    found = run_all(kill_at_two, range(8), 2, died=lambda item, how: -item)
    assert sorted(found) == [-2, 0, 10, 30, 40, 50, 60, 70]


def fails_at_three(item: int) -> int:
    if item == 3:
        raise ZeroDivisionError(item)
    return item


def test_an_error_in_a_worker_is_raised_here_with_the_workers_traceback() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        list(run_all(fails_at_three, range(5), 2))
    assert "fails_at_three" in "".join(caught.value.__notes__)
