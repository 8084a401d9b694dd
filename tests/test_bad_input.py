"""Every command, given what cannot be: one line that names the option, status 2, nothing started.

Run in this process, so that a hundred cases take seconds; tests/test_console.py has the edges that
need a process. A server that would be started is a failure.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bridge.__main__ import main as bridge
from engines.cli import main as engines
from sim_stream.cli import main as sim_stream
from sim_stream.server_process import ServerProcess
from train.cli import main as train

COMMANDS = {"sim-stream": sim_stream, "bridge": bridge, "engines": engines, "train": train}
NOT_UTF8 = os.fsdecode(b"n\xe4me")
HUGE = "9" * 30
SCAN = "train data scan --root set --out o"
SAMPLE = "train data sample --manifests lists --out o"
RECORD = "bridge record --world painted --split train --drives 1 --out o"
STAGE = "train tokenizer --cache c --out o"

# The command line with a bar before the value that cannot be, and what is said of it.
CASES = [
    ("sim-stream serve --preset|nano", "preset: got nano; allowed: openviga, pocket"),
    ("sim-stream serve --threads|-1", "threads: got -1; allowed: 1..1024"),
    (f"sim-stream serve --threads|{HUGE}", "argument --threads: got '999"),
    ("sim-stream serve --threads|999999999", "threads: got 999999999"),
    ("sim-stream serve --max-sessions|0", "max_sessions: got 0; allowed: 1..4096"),
    ("sim-stream serve --max-sessions|99999999", "max_sessions: got 99999999"),
    ("sim-stream serve --max-sessions-per-key|-1", "max_sessions_per_key: got -1"),
    ("sim-stream serve --lease-s|nan", "argument --lease-s: got 'nan'"),
    ("sim-stream serve --lease-s|-1", "lease_s: got -1.0"),
    ("sim-stream serve --lease-s|0", "lease_s: got 0.0"),
    ("sim-stream serve --lease-s|1e308", "lease_s: got 1e+308"),
    ("sim-stream serve --requests-per-s|0", "requests_per_s: got 0.0"),
    ("sim-stream serve --requests-per-s|inf", "argument --requests-per-s: got 'inf'"),
    ("sim-stream serve --bind|", "argument --bind: got ''"),
    ("sim-stream serve --bind|nowhere", "bind: got nowhere"),
    ("sim-stream serve --metrics|99999", "metrics: got '99999'"),
    ("sim-stream serve --key|none", "allow: got none"),
    ("sim-stream serve --decoding|jacobi:x", "decoding"),
    ("sim-stream serve --weights|", "argument --weights: got ''"),
    ("sim-stream serve --record|file", "record: got file (not a folder)"),
    ("sim-stream view --port|65536", "port: got 65536"),
    ("sim-stream view --host|", "argument --host: got ''"),
    ("sim-stream view --host|0.0.0.0", "host: got 0.0.0.0"),
    ("sim-stream view --seed|-1", "seed: got -1"),
    ("sim-stream view --max-sessions|-5", "max_sessions: got -5"),
    ("sim-stream view --record|file", "record: got file (not a folder)"),
    ("sim-stream view --subscribe|tcp://127.0.0.1:1", "subscribe: got tcp://127.0.0.1:1"),
    ("sim-stream demo --frames|0", "frames: got 0; allowed: 1 or more"),
    ("sim-stream demo --frames|x", "argument --frames: invalid int value: 'x'"),
    ("sim-stream demo --frames|1000000000000", "frames: got 1000000000000"),
    ("sim-stream demo --seed|-1", "seed: got -1; allowed: 0..2^64-1"),
    ("sim-stream demo --pace|-1", "pace: got -1.0"),
    ("sim-stream demo --pace|1e-320", "pace: got 1e-320"),
    ("sim-stream demo --pace|nan", "argument --pace: got 'nan'"),
    ("sim-stream demo --start|-1", "start_s: got -1.0"),
    ("sim-stream demo --start|1e308", "start_s: got 1e+308"),
    ("sim-stream demo --out|", "argument --out: got ''"),
    ("sim-stream demo --out|.", "out: got '.'; allowed: the name of a file"),
    ("sim-stream demo --out|folder", "out: got folder (a directory)"),
    ("sim-stream demo --out|none/x.mp4", "out: got none/x.mp4 (no such directory)"),
    ("sim-stream demo --out|file/x.mp4", "out: got file/x.mp4 (not a folder)"),
    (f"sim-stream demo --out|{'x' * 300}", "(the name is too long)"),
    ("sim-stream demo --out|/proc/x.mp4", "out: got /proc/x.mp4"),
    ("sim-stream demo --out|/dev/null", "out: got /dev/null (not a regular file)"),
    ("sim-stream demo --sheet|folder", "sheet: got folder (a directory)"),
    ("sim-stream demo --sheet|demo.mp4", "sheet: got demo.mp4"),
    ("sim-stream demo --record|file", "record: got file (not a folder)"),
    ("sim-stream demo --video|", "argument --video: got ''"),
    ("sim-stream demo --video|none.mp4", "none.mp4 (does not exist)"),
    ("sim-stream demo --video|folder", "video: got folder"),
    ("sim-stream demo --video|binary", "video: got binary"),
    ("sim-stream demo --video|empty", "video: got empty"),
    (f"sim-stream demo --video|{NOT_UTF8}", r"video: got n\udce4me"),
    ("sim-stream demo --clip|noon", "argument --clip: invalid choice: 'noon'"),
    ("sim-stream replay|none.jsonl", "none.jsonl"),
    ("sim-stream replay|folder", "folder"),
    ("sim-stream replay|binary", "binary"),
    ("sim-stream replay|empty", "empty"),
    (f"sim-stream replay|{NOT_UTF8}", r"n\udce4me"),
    ("sim-stream bench --paces|nan", "paces: got nan"),
    ("sim-stream bench --paces|", "argument --paces: got ''"),
    ("sim-stream bench --paces|4,,8", "paces: got ''"),
    ("sim-stream bench --frames|1", "frames: got 1"),
    ("sim-stream bench --warm-up|-1", "warm_up: got -1"),
    ("sim-stream bench --seed|-1", "seed: got -1"),
    ("sim-stream bench --out|file", "out: got file (a file)"),
    ("sim-stream bench --out|file/x", "out: got file/x (not a folder)"),
    ("sim-stream bench --roofline|A1", "roofline: got A1"),
    ("sim-stream keygen|", "argument NAME: got ''"),
    ("sim-stream keygen|none/me", "name: got none/me.secret (no such directory)"),
    ("sim-stream keygen|file/me", "name: got file/me.secret (not a folder)"),
    (f"sim-stream keygen|{'x' * 300}", "(the name is too long)"),
    ("sim-stream weights inspect|none", "none"),
    ("sim-stream weights inspect|binary", "binary"),
    ("sim-stream weights inspect|empty", "empty"),
    (f"sim-stream weights inspect|{NOT_UTF8}", r"n\udce4me"),
    ("sim-stream weights verify|folder", "folder"),
    ("sim-stream weights convert binary --out|file", "out: got file (not a folder)"),
    ("sim-stream weights convert binary --out|.", "out: got '.'"),
    ("sim-stream weights convert binary --out w --preset|nano", "preset: got nano"),
    ("sim-stream|nothing", "invalid choice: 'nothing'"),
    ("bridge drive --frames|0", "--frames: got 0"),
    ("bridge drive --frames|1000000000000", "--frames: got 1000000000000"),
    ("bridge drive --lead-in|-1", "--lead-in: got -1"),
    ("bridge drive --drives|0", "--drives: got 0"),
    ("bridge drive --seed|-1", "--seed: got -1"),
    (f"bridge drive --seed|{HUGE}", "argument --seed: got '999"),
    ("bridge drive --out|x.avi", "--out: got x.avi; allowed: a name that ends in .mp4"),
    ("bridge drive --out|none/x.mp4", "--out: got none/x.mp4 (no such directory)"),
    ("bridge drive --out|folder.mp4", "--out: got folder.mp4 (a directory)"),
    ("bridge drive --policy|", "argument --policy: got ''"),
    ("bridge drive --policy|nothing", "policy"),
    ("bridge drive --world|", "argument --world: got ''"),
    ("bridge drive --world|nothing", "world: got nothing; allowed: carla"),
    ("bridge record --out o --split train --drives 1 --world|video", "world: got video"),
    ("bridge drive --preset|nano", "argument --preset: invalid choice: 'nano'"),
    ("bridge drive --key|none", "--key: got none; allowed: none without --server"),
    (f"{RECORD} --frames|1", "--frames: got 1"),
    (f"{RECORD} --size|0", "--size: got 0"),
    (f"{RECORD} --size|33", "--size: got 33"),
    (f"{RECORD} --size|1000000", "--size: got 1000000"),
    (f"{RECORD} --crf|-1", "--crf: got -1"),
    (f"{RECORD} --workers|0", "--workers: got 0"),
    (f"{RECORD} --workers|100000", "--workers: got 100000"),
    (f"{RECORD} --out|file", "--out: got file (not a folder)"),
    ("engines build --out o --preset|nano", "preset: got nano"),
    ("engines build --out o --backend|x", "backend: got x"),
    ("engines build --out o --provider|x", "provider: got x"),
    ("engines build --out o --precision|x", "precision: got x"),
    ("engines build --out o --parts|x", "parts: got x"),
    ("engines build --out o --max-batch|0", "max_batch: got 0"),
    ("engines build --out o --threads|0", "threads: got 0"),
    ("engines build --out o --workspace-mib|-1", "workspace_bytes: got -1048576"),
    ("engines build --out o --optimization-level|9", "optimization_level: got 9"),
    ("engines build --out|file", "out: got file (not a folder)"),
    ("engines export --out o --precision|x", "precision: got x"),
    ("engines export --out o --max-batch|-1", "max_batch: got -1"),
    ("engines verify|folder", "folder: no engines"),
    (f"{SCAN} --size|-1", "--size: got '-1'"),
    (f"{SCAN} --workers|-1", "workers: got -1"),
    (f"{SCAN} --max-gap-s|-1", "max_gap_s: got -1.0"),
    (f"{SCAN} --max-gap-s|nan", "argument --max-gap-s: got 'nan'"),
    ("train data scan --out o --root|none", "root: got none"),
    ("train data scan --root set --out|file", "out: got file (not a folder)"),
    (f"{SAMPLE} --fps|0", "fps: got 0.0"),
    (f"{SAMPLE} --fps|1e300", "fps: got 1e+300"),
    (f"{SAMPLE} --keep|3", "keep: got 3"),
    (f"{SAMPLE} --limit|0", "limit: got 0"),
    (f"{STAGE} --steps|0", "steps: got 0"),
    (f"{STAGE} --batch|-1", "batch: got -1"),
    (f"{STAGE} --minutes|-1", "minutes: got -1.0"),
    (f"{STAGE} --lr|inf", "argument --lr: got 'inf'"),
    (f"{STAGE} --precision|x", "precision: got x"),
    (f"{STAGE} --loss|x=1", "loss: got x=1"),
    (f"{STAGE} --preset|nano", "preset: got nano"),
    ("train tokenizer --cache c --out|file", "out: got file (not a folder)"),
    ("train evaluate --cache c --out|file", "out: got file (not a folder)"),
    ("train compare --cache c --weights w --out|file", "out: got file (not a folder)"),
    ("train pack --runs r --model-id m --out|file", "out: got file (not a folder)"),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a file, a folder, and files that are no videos."""
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 20)
    for name in ("file", "empty", NOT_UTF8):
        (tmp_path / name).touch()
    for name in ("folder", "folder.mp4", "set", "lists", "c"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)

    def start(self: ServerProcess) -> None:
        raise AssertionError("a server was started")

    monkeypatch.setattr(ServerProcess, "__enter__", start)
    return tmp_path


@pytest.mark.parametrize(("line", "said"), CASES, ids=[line[:60] for line, _ in CASES])
def test_what_cannot_be_is_refused_in_one_line(
    here: Path, capfd: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    words, value = line.split("|")
    command, *arguments = words.split()
    last = arguments[-1] if arguments else ""
    given = [*arguments[:-1], f"{last}={value}"] if last.startswith("--") else [*arguments, value]
    before = sorted(here.rglob("*"))
    try:
        status = COMMANDS[command](given)
    except SystemExit as ended:
        status = ended.code
    out, err = capfd.readouterr()
    assert (status, out) == (2, ""), err
    assert said in err and err.count("\n") == 1 and len(err) < 1000
    assert err.startswith((f"{command} ", f"{command}: ", f"python -m {command}"))
    assert sorted(here.rglob("*")) == before


def test_every_command_is_in_the_table() -> None:
    assert {line.split("|")[0].split()[0] for line, _ in CASES} == set(COMMANDS)
