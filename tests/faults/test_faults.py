"""The quicker faults, as part of the normal tests; all of them: ``python -m tests.faults``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sim_stream.errors import Unavailable
from tests.faults import __main__, clients_fail, disk, fuzz, hostile, impostors, strangers
from tests.faults.catalogue import FAULTS
from tests.faults.clients import Seen, check_frames
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
