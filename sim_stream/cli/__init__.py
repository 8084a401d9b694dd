"""The ``sim-stream`` command: a module for each subcommand, and ``options`` that several take.

Only parses and dispatches: what one needs is imported when it runs, so that ``--help`` needs
neither torch nor zmq. A mistake of the caller is one line on stderr and exit status 2
(``sim_stream.console``).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Protocol

from sim_stream import __version__, console, logs
from sim_stream.cli import bench, demo, doctor, keygen, replay, serve, view, weights
from sim_stream.console import INTERRUPTED, MISTAKE, OK, Parser

__all__ = ["INTERRUPTED", "MISTAKE", "OK", "VERBS", "build_parser", "main"]


class Verb(Protocol):
    """What each module here offers."""

    def add_options(self, parser: argparse.ArgumentParser) -> None: ...
    def run(self, args: argparse.Namespace) -> int: ...


SUBCOMMANDS: dict[str, tuple[Verb, str]] = {
    "serve": (serve, "serve a model over ZeroMQ until Ctrl-C"),
    "view": (view, "a page to watch and drive sessions on"),
    "demo": (demo, "the main job: start a server, drive it for some frames, write an MP4"),
    "replay": (replay, "run a recorded session again and say whether every frame is equal"),
    "bench": (bench, "the profiler: latency, jitter, deadline misses and roofline of this machine"),
    "weights": (weights, "inspect, convert and verify checkpoints"),
    "keygen": (keygen, "make a key pair for encryption"),
    "doctor": (doctor, "show what is installed, what is used, what is missing and how to get it"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand; gives the exit status."""
    return console.run(build_parser(), argv, _run, interrupted=_interrupted)


def _run(args: argparse.Namespace) -> int:
    form = getattr(args, "log_format", "text")
    logs.set_up(args.log_level, form, with_progress=args.subcommand == "serve")
    subcommand, _ = SUBCOMMANDS[args.subcommand]
    return subcommand.run(args)


def _interrupted(args: argparse.Namespace, interrupt: KeyboardInterrupt) -> tuple[int, str]:
    """A server told to stop has done what it was asked to; a demo or a benchmark has not."""
    return (OK if args.subcommand in ("serve", "view") else console.status_of(interrupt)), ""


def build_parser() -> Parser:
    parser = Parser(
        prog="sim-stream",
        description="Streams driving frames into a world model and predicted frames back.",
        epilog="Exit status: 0 done, 1 compared or checked and found wanting, 2 a mistake that one "
        "line on stderr names, 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP; serve and view end with 0 "
        "after any of these three.",
    )
    parser.add_argument("--version", action="version", version=f"sim-stream {__version__}")
    common = Parser(add_help=False)
    common.add_argument(
        "--log-level",
        default="warning",
        choices=("debug", "info", "warning", "error"),
        help="what goes to stderr (default: %(default)s)",
    )
    subcommands = parser.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")
    for name, (subcommand, about) in SUBCOMMANDS.items():
        subcommand.add_options(subcommands.add_parser(name, parents=[common], help=about))
    return parser
