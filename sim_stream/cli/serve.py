"""``sim-stream serve``: options in; the server is imported only when it runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from sim_stream.cli.options import (
    add_log_format,
    add_model_options,
    add_named_model,
    add_random_weights,
    add_record,
    as_fields,
)
from sim_stream.wire.server.rates import REQUESTS_PER_S


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Serves a model over ZeroMQ. Prints `ready ENDPOINT` when it listens; "
        "Ctrl-C or SIGTERM ends it with status 0."
    )
    add_model_options(parser)
    add_named_model(parser)
    parser.add_argument(
        "--bind",
        default="tcp://127.0.0.1:5555",
        metavar="ADDRESS",
        help="where clients connect; port 0 takes a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--publish", metavar="ADDRESS", help="also publish every frame there, for viewers"
    )
    parser.add_argument(
        "--max-sessions", type=int, default=4, metavar="N", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--lease-s",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="a session whose client is silent for longer is closed (default: %(default)g)",
    )
    add_record(
        parser,
        "record every session into this folder: frames, and all `replay` needs; started again on "
        "it, the server takes its sessions up where they were",
    )
    parser.add_argument(
        "--metrics",
        metavar="[HOST:]PORT",
        help="answer Prometheus there, at /metrics, on this machine unless HOST says otherwise; "
        "docs/viewing.md lists the names",
    )
    add_random_weights(parser)
    _add_access_options(parser)
    add_log_format(parser)
    parser.add_argument(
        "--until-stdin-closes",
        action="store_true",
        help="end with the program that started this one and holds its stdin",
    )


def _add_access_options(parser: argparse.ArgumentParser) -> None:
    access = parser.add_argument_group("who may connect (beyond this machine both are needed)")
    access.add_argument(
        "--key", type=Path, metavar="FILE", help="the server's secret key file; encrypts everything"
    )
    access.add_argument(
        "--allow",
        type=Path,
        metavar="PATH",
        help="the clients' public keys: a folder of .pub files, or a file; changes count at once",
    )
    access.add_argument(
        "--max-sessions-per-key", type=int, metavar="N", help="(default: --max-sessions)"
    )
    access.add_argument(
        "--requests-per-s",
        type=float,
        default=REQUESTS_PER_S,
        metavar="N",
        help="that one key, or without keys one connection, may send (default: %(default)g)",
    )


def run(args: argparse.Namespace) -> int:
    """Raises SimStreamError."""
    from sim_stream import serve

    return serve.run(serve.ServeOptions(**as_fields(serve.ServeOptions, args)))
