"""``sim-stream view``: options in; the page's modules are imported only when it runs."""

from __future__ import annotations

import argparse
import importlib.util

from sim_stream.cli.options import (
    add_log_format,
    add_model_options,
    add_prompt,
    add_record,
    as_fields,
)
from sim_stream.connect_options import add_key_options
from sim_stream.errors import Unavailable

DESCRIPTION = (
    "Serves one page on this machine: live frames, driving with the arrow keys, latency and queue "
    "plots, the frame window, a list of sessions, forks. Starts a server of its own, or takes a "
    "running one. Several viewers may look at once; one drives. docs/viewing.md shows it."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    add_model_options(parser)  # of a server of its own
    add_log_format(parser)
    parser.add_argument(
        "--server",
        metavar="ENDPOINT",
        help="use this running server (default: start one with the model chosen here)",
    )
    parser.add_argument(
        "--subscribe",
        metavar="ADDRESS",
        help="what --server was given as --publish: also show other clients' sessions",
    )
    add_key_options(parser)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="a loopback address; from elsewhere use ssh -L (default: %(default)s)",
    )
    parser.add_argument(
        "--port", type=int, default=8080, help="0 takes a free one (default: %(default)s)"
    )
    add_prompt(parser)
    add_record(
        parser,
        "of a server of its own: record every session into this folder; should the server die, it "
        "is started again and sessions go on where they were",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: %(default)s)")
    parser.add_argument(
        "--max-sessions",
        type=int,
        default=4,
        metavar="N",
        help="of a server of its own (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Raises SimStreamError; Unavailable without the extra `view`."""
    if importlib.util.find_spec("aiohttp") is None:
        raise Unavailable("the page needs aiohttp: pip install 'sim-stream[view]'")
    from sim_stream.view import app
    from sim_stream.view.options import ViewOptions

    return app.run(ViewOptions(**as_fields(ViewOptions, args)))
