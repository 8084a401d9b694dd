"""``sim-stream replay``: options in; the work is done by ``sim_stream.recording``."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from sim_stream.cli.options import add_model_options
from sim_stream.connect_options import add_key_options

# Shown by --help as the default of what the recording says itself.
AS_RECORDED = "as recorded"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Opens the recorded session on a server of its own, started as the recording "
        "says (options here override that), or on --connect's, sends its actions and compares "
        "every frame. Status 0 if all are equal, 1 if not, 2 if it cannot be replayed. A recording "
        "that was cut off replays up to the cut."
    )
    parser.add_argument(
        "recording", type=Path, metavar="FILE", help="its .jsonl or .mcap file, or its video"
    )
    parser.add_argument(
        "--connect", metavar="ENDPOINT", help="replay on this running server instead"
    )
    add_key_options(parser)
    parser.add_argument("--json", action="store_true", help="the report as the last line")
    add_model_options(parser)
    for field in _model_fields():
        named = isinstance(parser.get_default(field), str)
        parser.set_defaults(**{field: AS_RECORDED if named else None})


def run(args: argparse.Namespace) -> int:
    """Raises SimStreamError."""
    from sim_stream.recording import replay

    given = {name: getattr(args, name) for name in _model_fields()}
    return replay.run(
        replay.ReplayOptions(
            recording=args.recording,
            endpoint=args.connect,
            key=args.key,
            server_key=args.server_key,
            model={name: v for name, v in given.items() if v not in (None, AS_RECORDED)},
            as_json=args.json,
        )
    )


def _model_fields() -> list[str]:
    from sim_stream.model_options import ModelOptions

    return [field.name for field in fields(ModelOptions) if field.name != "log_level"]
