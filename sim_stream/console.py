"""What all commands of this project have in common where they meet people: how options are refused,
how errors are said, what signals do, and what becomes of standard streams that are closed.

    0    done                               130  Ctrl-C          143  SIGTERM
    2    a mistake, in one line on stderr   129  the terminal is gone (SIGHUP)
                                            141  whoever read stdout is gone

Imports nothing that takes time: ``--help`` needs it.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from sim_stream.errors import SimStreamError
from sim_stream.outputs import reason_of
from sim_stream.stop_signals import STOP_SIGNALS
from sim_stream.text import one_line

OK, MISTAKE, INTERRUPTED = 0, 2, 128 + signal.SIGINT
MESSAGE, SHOWN = 400, 80  # characters of a message of argparse's, and of a value
TWICE_S = 1.0  # a key that bounces, or a terminal that closes: SIGHUP with SIGTERM behind it


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP: ends this process as Ctrl-C does, with everything closed on the way."""

    def __init__(self, number: int) -> None:
        super().__init__(number)  # as a pickle hands it on
        self.number = number


class Parser(argparse.ArgumentParser):
    """Says a mistake in one line; without the subcommand that it asks for it prints its help.

    Numbers are finite and have 64 bits at most, whatever they are for; nothing that is given is
    empty, unless that is its default.
    """

    def error(self, message: str) -> NoReturn:
        text = one_line(message)
        text = text if len(text) <= MESSAGE else f"{text[:MESSAGE]}..."
        self.exit(MISTAKE, f"{self.prog}: {text} (--help says more)\n")

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        value = super()._get_value(action, arg_string)
        allowed = ""
        if isinstance(action, argparse._SubParsersAction):
            return value  # what comes after a subcommand is that subcommand's
        if arg_string == "" != action.default:
            allowed = "anything but nothing"
        elif isinstance(value, float) and not math.isfinite(value):
            allowed = "a finite number"
        elif isinstance(value, int) and not -(2**63) <= value < 2**64:
            allowed = "a number of 64 bits"
        if allowed:
            shown = arg_string if len(arg_string) <= SHOWN else f"{arg_string[:SHOWN]}..."
            raise argparse.ArgumentError(action, f"got {shown!r}; allowed: {allowed}")
        return value

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        given: Sequence[str] = sys.argv[1:] if args is None else args
        if not given and self._subparsers is not None:
            self.print_help()
            self.exit(OK)
        return super().parse_known_args(given, namespace)


def run(
    parser: Parser,
    argv: Sequence[str] | None,
    work: Callable[[argparse.Namespace], int],
    *,
    interrupted: Callable[[argparse.Namespace, KeyboardInterrupt], tuple[int, str]] | None = None,
) -> int:
    """Parses, works and gives the exit status; what ends it early is said on stderr.

    ``interrupted``: status and line after Ctrl-C, SIGTERM or SIGHUP, if not the usual ones.
    """
    mend_streams()
    args: argparse.Namespace | None = None
    name = parser.prog.removeprefix("python -m ")
    try:
        with _ended_by_signals():
            try:
                args = parser.parse_args(argv)
                name = " ".join([name, *([args.subcommand] if "subcommand" in args else [])])
                status = work(args)
            except SystemExit:  # --help, --version
                sys.stdout.flush()
                raise
            sys.stdout.flush()
            return status
    except KeyboardInterrupt as interrupt:
        status, line = status_of(interrupt), ""
        if args is not None and interrupted is not None:
            status, line = interrupted(args, interrupt)
        if line:
            say(line)
        return status
    except SimStreamError as error:
        say(f"{name}: {one_line(str(error))}")
    except BrokenPipeError:
        say(f"{name}: nobody reads its output any more; what was done stays")
        _let_go_of_pipes()
        return 128 + signal.SIGPIPE
    except OSError as error:
        reason = reason_of(error)
        if reason is None:
            raise
        where = one_line(os.fsdecode(error.filename)) if error.filename else "its output"
        say(f"{name}: {where}: {reason}")
        _let_go_of_pipes()
    return MISTAKE


def status_of(interrupt: KeyboardInterrupt) -> int:
    """As a shell counts what a signal ended."""
    return 128 + int(getattr(interrupt, "number", signal.SIGINT))


def say(line: str) -> None:
    """On stderr, if anybody listens there."""
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


def mend_streams() -> None:
    """Standard streams that the caller closed (``>&-``), before a file or socket takes their place.

    Results go to stderr where stdout is closed. Characters that an encoding lacks are escaped.
    """
    null = os.open(os.devnull, os.O_RDWR)
    if sys.stdin is None:
        sys.stdin = _at(0, null, "r")
    if sys.stderr is None:
        sys.stderr = _at(2, null, "w")
    if sys.stdout is None:
        sys.stdout = _at(1, 2, "w")
    if null > 2:
        os.close(null)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _at(number: int, source: int, mode: str) -> io.TextIOWrapper:
    if source != number:
        os.dup2(source, number)
    os.set_inheritable(number, True)
    errors = "backslashreplace" if mode == "w" else None
    raw = io.FileIO(number, mode, closefd=False)
    buffer = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
    return io.TextIOWrapper(buffer, encoding="utf-8", errors=errors, line_buffering=True)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP raise Terminated, as SIGINT raises KeyboardInterrupt.

    More of them within a second of the first are the same wish; a later one interrupts what is
    being closed. One that was ignored when we came (``nohup``) stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    first_s: float | None = None

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal first_s
        now_s = time.monotonic()
        if first_s is not None and now_s - first_s < TWICE_S:
            return
        first_s = first_s or now_s
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)

    heard = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, on_signal) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            # Once asked to end, a signal more must not show where the interpreter was.
            signal.signal(number, handler if first_s is None else signal.SIG_DFL)


def _let_go_of_pipes() -> None:
    """So that the interpreter does not fail at its last flush."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)
