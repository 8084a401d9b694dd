"""Outputs are tried before work starts: each reason, and every subcommand that writes something."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sim_stream.errors import InvalidInput, Unavailable
from sim_stream.outputs import said_plainly, try_file, try_folder, write_whole
from sim_stream.video_writer import Mp4Writer, write_png

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 120.0


def left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_trial_leaves_nothing_and_does_not_touch_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "there.mp4").write_text("mine")
    (tmp_path / "folder").mkdir()
    try_file("out", tmp_path / "new.mp4")
    try_file("out", tmp_path / "there.mp4")
    try_folder("out", tmp_path / "folder")
    try_folder("out", tmp_path / "a" / "b" / "c")
    assert left(tmp_path) == ["folder", "there.mp4"]
    assert (tmp_path / "there.mp4").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none/x.mp4", "no such directory"),
        ("file/x.mp4", "not a folder"),
        ("folder", "a directory"),
        ("x" * 250, "the name is too long"),
        ("x" * 300, "the name is too long"),
        ("loop/x.mp4", "a link that leads to itself"),
        ("fifo", "not a regular file"),
        ("", "the name of a file"),
        ("..", "the name of a file"),
    ],
)
def test_a_file_that_cannot_be_is_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    before = left(tmp_path)
    with pytest.raises(InvalidInput, match=said):
        try_file("out", tmp_path / name if name not in ("", "..") else Path(name))
    assert left(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("file", "not a folder"),
        ("file/x", "not a folder"),
        ("new/" + "x" * 300, "the name is too long"),
        ("loop", "not a folder|a link that leads to itself"),
    ],
)
def test_a_folder_that_cannot_be_is_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InvalidInput, match=said):
        try_folder("out", tmp_path / name)
    assert left(tmp_path) == ["file", "loop"]


def test_proc_is_no_place(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"out: got /proc/x"):
        try_file("out", Path("/proc/x"))
    with pytest.raises(InvalidInput, match=r"out: got /proc/x"):
        try_folder("out", Path("/proc/x"))


def test_what_the_user_cannot_mend_stays_what_it_is() -> None:
    with pytest.raises(TimeoutError), said_plainly(Path("x")):
        raise TimeoutError(errno.ETIMEDOUT, "")


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_whole(path, "old")
    path.chmod(0o600)
    with pytest.raises(Unavailable, match="no such directory"):
        write_whole(tmp_path / "none" / "x.json", "new")
    assert path.read_text() == "old" and left(tmp_path) == ["x.json"]


# Disks, in mount namespaces of their own: nothing that has a name is mounted.

unshare = [*(["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "-Urm"])]


def can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    mount = [*unshare, "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(mount, capture_output=True, check=False).returncode == 0


needs_mounts = pytest.mark.skipif(not can_mount(), reason="needs mount namespaces")
FULL = "mount -t tmpfs -o size=200k none $1"
READ_ONLY = "mount -t tmpfs none $1 && mount -o remount,ro $1"
FOREIGN = "mount -t tmpfs -o mode=0755 none $1"


def on_disk(
    mount: str, folder: Path, *command: str, after: str = ":"
) -> subprocess.CompletedProcess[str]:
    """Runs it where ``folder`` is that disk and the working folder; then ``after``, in a shell."""
    script = f'{mount} && cd "$1" && shift && "$@"; status=$?; {after}; exit $status'
    return subprocess.run(
        [*unshare, "sh", "-c", script, "sh", str(folder), *command],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


SUBCOMMANDS = {
    "demo": ("sim_stream", "demo", "--frames", "2"),
    "demo --sheet": ("sim_stream", "demo", "--frames", "2", "--out", "/dev/shm/x.mp4", "--sheet=s"),
    "demo --record": ("sim_stream", "demo", "--out", "/dev/shm/x.mp4", "--record", "r"),
    "bench": ("sim_stream", "bench", "--quick"),
    "keygen": ("sim_stream", "keygen", "me"),
    "serve --record": ("sim_stream", "serve", "--record", "r"),
    "view --record": ("sim_stream", "view", "--port", "0", "--record", "r"),
    "weights convert": ("sim_stream", "weights", "convert", "/dev/null", "--out", "w"),
    "bridge drive": ("bridge", "drive", "--world", "painted"),
    "bridge record": (
        *("bridge", "record", "--world", "painted", "--drives", "1"),
        *("--split", "train", "--out", "r"),
    ),
    "engines export": ("engines", "export", "--out", "e"),
    "engines build": ("engines", "build", "--out", "e"),
    "train tokenizer": ("train", "tokenizer", "--cache", "/dev/shm", "--out", "o"),
    "train world-model": ("train", "world-model", "--cache", "/dev/shm", "--out", "o"),
    "train video-decoder": ("train", "video-decoder", "--cache", "/dev/shm", "--out", "o"),
    "train data scan": ("train", "data", "scan", "--root", "/dev/shm", "--out", "o"),
    "train data sample": ("train", "data", "sample", "--manifests", "/dev/shm", "--out", "o"),
    "train data tokenize": ("train", "data", "tokenize", "--manifests", "/dev/shm", "--out", "o"),
    "train evaluate": ("train", "evaluate", "--cache", "/dev/shm", "--out", "o"),
    "train evaluate openviga": (
        *("train", "evaluate", "--cache", "/dev/shm"),
        *("--protocol", "openviga"),
    ),
    "train compare": ("train", "compare", "--cache", "/dev/shm", "--weights=/dev/shm", "--out=o"),
    "train pack": ("train", "pack", "--runs", "/dev/shm", "--model-id", "m", "--out", "o"),
    "lights": ("tools.lights_sheet", "--out", "x.png"),
    "cut": ("tools.cut_sample", "--drives", "/dev/shm", "--id", "x", "--out", "x.mp4"),
}


@needs_mounts
@pytest.mark.parametrize("subcommand", SUBCOMMANDS)
def test_a_read_only_folder_is_said_in_one_line_before_work_starts(
    tmp_path: Path, subcommand: str
) -> None:
    module, *arguments = SUBCOMMANDS[subcommand]
    done = on_disk(READ_ONLY, tmp_path, sys.executable, "-m", module, *arguments)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "the file system is read-only" in done.stderr
    assert done.stderr.count("\n") == 1  # not even a progress bar was begun


@needs_mounts
@pytest.mark.parametrize("subcommand", ["demo", "bridge drive", "bench", "engines build"])
def test_a_full_disk_is_said_in_one_line_and_holds_no_rest(tmp_path: Path, subcommand: str) -> None:
    module, *arguments = SUBCOMMANDS[subcommand]
    command = (sys.executable, "-m", module, *arguments)
    done = on_disk(FULL, tmp_path, *command, after="ls -AR")
    assert (done.returncode, done.stdout) == (2, ".:\n"), done.stderr
    assert "the disk is full" in done.stderr and done.stderr.count("\n") == 1


@needs_mounts
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root")
def test_a_folder_of_somebody_else_is_said_in_one_line(tmp_path: Path) -> None:
    code = (
        "import os, sys; os.setgid(65534); os.setuid(65534); from pathlib import Path;"
        "from sim_stream.outputs import try_file, try_folder\n"
        "for trial in (try_file, try_folder):\n"
        "    try: trial('out', Path('x'))\n"
        "    except ValueError as error: print(error)"
    )
    # Imported as root: the tests' folder need not be open to everybody.
    code = "from sim_stream import outputs; " + code
    done = on_disk(FOREIGN, tmp_path, sys.executable, "-c", code)
    assert done.stdout.count("out: got x (no permission to write)") == 2, done.stderr


@needs_mounts
def test_a_disk_that_fills_up_midway_is_said_and_leaves_no_part(tmp_path: Path) -> None:
    code = """
import os, sys
import numpy as np
from pathlib import Path
from sim_stream.errors import Unavailable
from sim_stream.video_writer import Mp4Writer, write_png
rng = np.random.default_rng(0)
noise = rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)
try:
    with Mp4Writer("x.mp4") as writer:
        for _ in range(200):
            writer.write(rng.integers(0, 256, noise.shape, dtype=np.uint8))
except Unavailable as error:
    print(error)
try:
    write_png("x.png", np.tile(noise, (6, 6, 1)))
except Unavailable as error:
    print(error)
"""
    mount = FULL.replace("200k", "1200k")
    done = on_disk(mount, tmp_path, sys.executable, "-c", code, after="ls -A")
    lines = done.stdout.splitlines()
    assert [line.split(" (")[0] for line in lines] == [
        "x.mp4: the disk is full",
        "x.png: the disk is full",
    ], done.stderr


@needs_mounts
def test_lines_of_a_drive_stay_whole_on_a_disk_that_fills_up(tmp_path: Path) -> None:
    code = """
from pathlib import Path
from types import SimpleNamespace
from bridge.driving import log
from sim_stream.errors import Unavailable
log.line = lambda moment, measured: {"text": "x" * 5000}
moment = SimpleNamespace(simulated=SimpleNamespace(end=""))
kept = log.DriveLog(Path("d.jsonl"))
try:
    while True:
        kept.add(moment, None)
except Unavailable as error:
    print(error)
kept.close()
"""
    after = "ls -A; tail -c 4 d.jsonl"
    done = on_disk(FULL, tmp_path, sys.executable, "-c", code, after=after)
    said, name, end = done.stdout.splitlines()[:3]
    assert (said, name, end) == ("d.jsonl: the disk is full", "d.jsonl", 'x"}'), done.stderr


def test_a_video_that_a_mistake_ends_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput), Mp4Writer(tmp_path / "x.mp4") as writer:
        writer.write(np.zeros((2, 2, 3), dtype=np.uint8))
    assert left(tmp_path) == []
    write_png(tmp_path / "x.png", np.zeros((2, 2, 3), dtype=np.uint8))
    assert left(tmp_path) == ["x.png"]


def test_a_journal_of_training_data_is_as_it_was_when_it_cannot_be_written(tmp_path: Path) -> None:
    from train.data.work import write_lines

    write_lines(tmp_path / "a" / "x.jsonl", [{"id": 1}])
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="not a folder"):
        write_lines(tmp_path / "file" / "x.jsonl", [{"id": 2}])
    assert json.loads((tmp_path / "a" / "x.jsonl").read_text()) == {"id": 1}
