"""What commands have in common: one line for a mistake, signals, streams that are closed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sim_stream.console import one_line

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 60.0
# A command that says what it does, keeps a file while it works, and waits for a line.
PROGRAM = """
import argparse, sys
from pathlib import Path
from sim_stream import console
from sim_stream.errors import InvalidInput

parser = console.Parser(prog="python -m work")
subcommands = parser.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")
for name in ("wait", "print", "stubborn", "fail", "open"):
    subcommand = subcommands.add_parser(name)
    subcommand.add_argument("--count", type=int, default=1)
    subcommand.add_argument("--share", type=float, default=1.0)
    subcommand.add_argument("--file", type=Path)

def work(args):
    if args.subcommand == "fail":
        raise InvalidInput("--file", args.file, "another one")
    if args.subcommand == "open":
        args.file.write_bytes(bytes(1 << 20))
    if args.subcommand == "print":
        for number in range(args.count):
            print("straße", number)
        print("summary")
        return 0
    part = Path("part")
    part.touch()
    try:
        print("working", flush=True)
        sys.stdin.readline()
    finally:
        if args.subcommand == "stubborn":
            print("closing", flush=True)
            sys.stdin.readline()
        part.unlink()
    return 0

sys.exit(console.run(parser, None, work))
"""


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return [sys.executable, str(path)]


def run(
    command: list[str], *arguments: str, shell: str = '"$@"', **environment: str
) -> subprocess.CompletedProcess[str]:
    """``shell``: what a shell does with the command and its arguments, ``"$@"``."""
    return subprocess.run(
        ["bash", "-c", shell, "bash", *command, *arguments],
        cwd=Path(command[1]).parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def started(program: list[str], subcommand: str, *prefix: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [*prefix, *program, subcommand],
        cwd=Path(program[1]).parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    return process


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_it_with_everything_closed_and_the_shells_status(
    program: list[str], number: signal.Signals, status: int
) -> None:
    process = started(program, "wait")
    process.send_signal(number)
    _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, stderr) == (status, "")
    assert not (Path(program[1]).parent / "part").exists()


def test_a_signal_twice_at_once_is_one(program: list[str]) -> None:
    process = started(program, "stubborn")
    process.send_signal(signal.SIGHUP)
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == "closing\n"
    process.send_signal(signal.SIGTERM)  # as a terminal that closes sends them
    process.stdin.write("\n")
    _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, stderr) == (129, "")
    assert not (Path(program[1]).parent / "part").exists()


def test_nohup_stays_in_force(program: list[str]) -> None:
    process = started(program, "wait", "nohup")
    process.send_signal(signal.SIGHUP)
    assert process.stdin is not None
    process.stdin.write("\n")
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0


def test_closed_stderr_changes_nothing(program: list[str]) -> None:
    done = run(program, "print", shell='"$@" 2>&-')
    assert (done.returncode, done.stdout) == (0, "straße 0\nsummary\n")
    done = run(program, "fail", shell='"$@" 2>&-')
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


def test_results_go_to_stderr_where_stdout_is_closed(program: list[str]) -> None:
    done = run(program, "print", shell='"$@" >&-')
    assert (done.returncode, done.stderr) == (0, "straße 0\nsummary\n")


def test_all_streams_closed_is_no_error(program: list[str]) -> None:
    assert run(program, "print", shell='"$@" <&- >&- 2>&-').returncode == 0


def test_a_reader_that_leaves_is_said_with_the_shells_status(program: list[str]) -> None:
    shell = '"$@" | head -1; echo "${PIPESTATUS[0]}"'
    done = run(program, "print", "--count", "100000", shell=shell)
    assert done.stdout == "straße 0\n141\n"
    assert done.stderr == "work print: nobody reads its output any more; what was done stays\n"


def test_help_that_is_cut_off_is_no_traceback(program: list[str]) -> None:
    done = run(program, "--help", shell='"$@" >&3 3>&- 3> >(true)')
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_a_full_output_is_one_line(program: list[str]) -> None:
    done = run(program, "print", shell='"$@" > /dev/full')
    assert (done.returncode, done.stderr) == (2, "work print: its output: the disk is full\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_an_encoding_lacks_is_escaped_and_nothing_lost(
    program: list[str], encoding: str
) -> None:
    done = run(program, "print", PYTHONIOENCODING=encoding, shell='"$@" | iconv -f latin1 -t utf8')
    assert done.stdout.splitlines()[1:] == ["summary"]
    assert done.returncode == 0


def test_without_a_verb_it_prints_its_help(program: list[str]) -> None:
    done = run(program)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing",), "argument SUBCOMMAND: invalid choice: 'nothing'"),
        (("wait", "--count", "x"), "argument --count: invalid int value: 'x'"),
        (("wait", "--count", "1.5"), "argument --count: invalid int value"),
        (("wait", "--count", "9" * 30), "argument --count: got '999999"),
        (("wait", "--count", "9" * 5000), "argument --count: invalid int value"),
        (("wait", "--share", "nan"), "argument --share: got 'nan'; allowed: a finite number"),
        (("wait", "--share=-inf"), "argument --share: got '-inf'"),
        (("wait", "--share", "1e999"), "argument --share: got '1e999'"),
        (("wait", "--file="), "argument --file: got ''; allowed: anything but nothing"),
        (("wait", "more"), "unrecognized arguments: more"),
        (("fail", "--file", "a\nb\x1b[31m"), r"got a\nb\x1b[31m; allowed: another one"),
        (("fail", "--file", os.fsdecode(b"n\xe4")), r"got n\udce4; allowed: another one"),
        (("open", "--file", "none/x"), "none/x: no such directory"),
        (("open", "--file", "."), ".: a directory"),
        (("open", "--file", "x" * 300), "the name is too long"),
        (("open", "--file", "program.py/x"), "not a folder"),
        (("open", "--file", "/dev/full"), "the disk is full"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    program: list[str], arguments: tuple[str, ...], said: str
) -> None:
    done = run(program, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr and done.stderr.startswith("work " if "got" in said[:4] else "")
    assert done.stderr.count("\n") == 1 and len(done.stderr) < 600


def test_what_is_not_printable_is_escaped() -> None:
    assert one_line("a b\tc\x07ü") == r"a b\tc\x07ü"
