"""The quicker faults, as part of the normal tests; all of them: ``python -m tests.faults``."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sim_stream.errors import Unavailable
from tests.faults import (
    __main__,
    clients_fail,
    disk,
    file_kinds,
    files,
    fuzz,
    hostile,
    impostors,
    strangers,
)
from tests.faults.catalogue import FAULTS
from tests.faults.clients import Seen, check_frames
from tests.faults.mutate import Mutator
from tests.faults.processes import ROOT, Violated, require, toy_server, wait_until
from tests.faults.registry import Fault, Stage, run_fault

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

QUICK = {
    "client killed mid-step": clients_fail.run_killed_toy,
    "client stopped and continued": clients_fail.run_stopped,
    "1,000 random and mutated messages": fuzz.fault(1000).run,
    "hostile messages": hostile.run_messages,
    "strangers at a guarded server": strangers.run_guarded,
    "routing ids claimed": impostors.run_open,
    "disk full while recording": disk.run,
}


@pytest.mark.parametrize("run", QUICK.values(), ids=QUICK.keys())
def test_fault_is_survived(run):
    outcome = run_fault(Fault(name="", holds="", run=run), seed=1)
    if outcome.state == "not run":
        pytest.skip(outcome.why)
    assert outcome.state == "survived", outcome.why
    assert outcome.figures["bystander"]


def test_every_fault_has_a_name_of_its_own_and_says_what_must_hold():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert all(fault.holds for fault in FAULTS)


def fails(stage: Stage) -> dict[str, str]:
    require(False, "it did not hold")
    return {}


def cannot(stage: Stage) -> dict[str, str]:
    raise Unavailable("no such thing here")


KINDS = {
    "good": Fault(name="good", holds="", run=lambda stage: {"seed": str(stage.seed)}),
    "bad": Fault(name="bad", holds="", run=fails),
    "absent": Fault(name="absent", holds="", run=cannot),
}


@pytest.mark.parametrize(
    ("names", "status", "last"),
    [
        (["good"], 0, ["1 survived, 0 failed"]),
        (["good", "bad"], 1, ["1 survived, 1 failed"]),
        (
            ["good", "absent"],
            0,
            ["1 not run: absent (no such thing here)", "1 survived, 0 failed"],
        ),
    ],
)
def test_summary_is_last_and_the_exit_status_says_the_same(
    names, status, last, monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr(__main__, "FAULTS", [KINDS[name] for name in names])
    assert __main__.main(["--seed", "7", "--json", str(tmp_path / "f.json")]) == status
    assert capsys.readouterr().out.splitlines()[-len(last) :] == last
    told = json.loads((tmp_path / "f.json").read_text())
    assert [outcome["name"] for outcome in told["outcomes"]] == names
    assert told["outcomes"][0]["figures"] == {"seed": "7"}


def test_name_that_no_fault_has_is_a_mistake(capsys):
    assert __main__.main(["--only", "no such fault"]) == 2
    assert "no such fault" in capsys.readouterr().err


SEEN = Seen(step=0, frame_id=0, committed_step=0, sha256="0", latency_ms=1.0, stamps_ns={})
REFERENCE = ["0", "1", "2", "3"]


def seen(*steps: int) -> list[Seen]:
    return [replace(SEEN, step=n, committed_step=n, sha256=str(n)) for n in steps]


def test_frames_as_in_the_reference_pass():
    check_frames(seen(0, 1, 2, 3), REFERENCE, "a client")


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        (seen(0, 1, 1), "frame 1 twice or out of order, expected 2"),
        (seen(0, 2), "frame 2 after a gap, expected 1"),
        (seen(0, 1, 2, 3, 4), "beyond the reference"),
        ([*seen(0), replace(seen(1)[0], sha256="x")], "differs from the undisturbed run's"),
        ([*seen(0), replace(seen(1)[0], committed_step=0)], "with committed step 0"),
    ],
)
def test_frame_that_is_lost_repeated_or_different_is_a_failure(frames, says):
    with pytest.raises(Violated, match=says):
        check_frames(frames, REFERENCE, "a client")


def test_fuzzer_with_one_seed_makes_the_same_messages():
    first, second = fuzz.Fuzzer(5), fuzz.Fuzzer(5)
    messages = [first.message("0" * 16) for _ in range(200)]
    assert messages == [second.message("0" * 16) for _ in range(200)]
    assert messages != [fuzz.Fuzzer(6).message("0" * 16) for _ in range(200)]


def test_some_mutated_files_of_each_kind_are_read_or_refused() -> None:
    outcome = run_fault(files.FAULTS[0], seed=1, cases=30)
    assert outcome.state == "survived", outcome.why
    assert all("refused" in outcome.figures[kind.name] for kind in file_kinds.KINDS)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        ("raise KeyError('a')", "KeyError at .*'a'"),
        ("raise InvalidInput('a', 'b', 'c') from MemoryError()", "memory ran out before"),
        ("time.sleep(60)", "longer than 2 s"),
        ("os.abort()", "the process ended with -6"),
        ("signal.pthread_sigmask(0, [14]); time.sleep(60)", "nothing happened for 10 s"),
        ("held.append(b'x' * (100 << 20))", "MiB of memory"),
    ],
)
def test_fuzzer_of_files_sees_each_way_to_fail_and_keeps_the_files(
    act: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kind whose third case fails like that."""
    (tmp_path / "planted.py").write_text(PLANTED.format(act=act))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    monkeypatch.setattr(files, "MODULE", "planted")
    monkeypatch.setattr(files, "CASE_S", 2.0)
    monkeypatch.setattr(files, "SILENT_S", 10.0)
    monkeypatch.setattr(files, "KEEP", tmp_path / "kept")
    with Stage(1) as stage:
        tally = files.fuzz(["planted"], 1, 8, stage)
    assert len(tally.failures) == 1, tally.failures
    assert re.search(f"planted, case 2.*{said}.*kept in", tally.failures[0], re.DOTALL)
    assert sum(tally.read.values()) >= 4
    assert (tmp_path / "kept" / "planted-1-2" / "a").is_file()


PLANTED = """
import os, signal, sys, time
from sim_stream.errors import InvalidInput
from tests.faults import file_kinds, file_worker

held, calls = [], 0
EVEN = __import__("json").loads(sys.argv[1])["share"] == 0

def read(folder, changed):
    global calls
    calls += 1
    if EVEN and calls == 3 and __import__("json").loads(sys.argv[1])["first"] == 0:
        {act}

def prepare(folder):
    (folder / "a").write_text("a")

kind = file_kinds.Kind(name="planted", prepare=prepare, rules={{"*": "bytes"}}, reader=lambda: read)
file_worker.BOUND_MIB = 64
file_worker.kind_named = lambda name: kind
sys.exit(file_worker.main())
"""


def test_mutations_with_one_seed_are_the_same() -> None:
    data = b'{"a": [1, 2, {"b": null}], "c": "text"}'

    def made(seed: int) -> list[bytes]:
        mutator = Mutator(random.Random(seed), [data])
        lines = [mutator.of_json_lines(data + b"\n" + data) for _ in range(50)]
        return lines + [mutator.of_json(data) for _ in range(200)]

    assert made(3) == made(3) != made(4)


def test_server_that_dies_is_told_with_its_last_words():
    with (
        pytest.raises(Violated, match=r"ended with 2: .*--max-sessions: invalid int value"),
        toy_server("--max-sessions=x"),
    ):
        pass


def children_of(pid: int) -> list[int]:
    listed = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(child) for child in listed.stdout.split()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_running_however_the_program_ends(number, tmp_path):
    command = [sys.executable, "-m", "tests.faults", "--only", "viewers"]
    program = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        wait_until("it has children", lambda: len(children_of(program.pid)) >= 2, timeout_s=30)
        children = children_of(program.pid)
        program.send_signal(number)
        _, said = program.communicate(timeout=30)
    finally:
        program.kill()
    assert program.returncode == (130 if number != signal.SIGKILL else -signal.SIGKILL), said
    wait_until("all are gone", lambda: not any(map(alive, children)), timeout_s=15)


def alive(pid: int) -> bool:
    """Not gone, and not dead and waiting for whoever adopted it to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
