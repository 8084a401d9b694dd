"""``--key`` and ``--server-key``: what a subcommand takes that talks to a server it did not start.

Parsing needs no zmq; ``StreamClient`` reads the files.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_key_options(parser: argparse.ArgumentParser) -> None:
    """The files become ``args.key`` and ``args.server_key``, as ``StreamClient`` names them."""
    keys = parser.add_argument_group("a server that asks for keys (`sim-stream keygen` makes them)")
    keys.add_argument("--key", type=Path, metavar="FILE", help="this client's secret key file")
    keys.add_argument(
        "--server-key", type=Path, metavar="FILE", help="the server's public key file (.pub)"
    )
