"""``sim-stream keygen``: a CURVE key pair for a server or a client. ``wire.keys`` writes it.

Knows no sockets; parsing needs no zmq.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sim_stream.errors import InvalidInput
from sim_stream.outputs import try_file
from sim_stream.plain_json import to_json


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Makes a CURVE key pair: NAME.secret, which only you can read and which never leaves this "
        "machine, and NAME.pub, which is for the other side. A server beyond this machine needs a "
        "pair of its own (`serve --key`) and its clients' .pub files in a folder (`serve "
        "--allow`); a client needs its own pair and the server's .pub file. What exists is never "
        "overwritten."
    )
    parser.add_argument(
        "name", type=Path, metavar="NAME", help="path of both files, without .pub and .secret"
    )
    parser.add_argument("--json", action="store_true", help="paths and public key as JSON")


def run(args: argparse.Namespace) -> int:
    """Raises SimStreamError."""
    from sim_stream.wire import keys

    if not args.name.name:
        raise InvalidInput("name", repr(str(args.name)), "a path of both files")
    for suffix in (keys.SECRET_SUFFIX, keys.PUBLIC_SUFFIX):
        path = args.name.with_name(args.name.name + suffix)
        try_file("name", path, needs_bytes=keys.FILE_BYTES)
    pair, public, secret = keys.write_pair(args.name)
    if args.json:
        print(to_json({"public": str(public), "secret": str(secret), "public_key": pair.public}))
    else:
        print(f"{secret}  secret (mode 0600): stays here")
        print(f"{public}  public: {pair.public}")
    return 0
