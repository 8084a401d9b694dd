"""A server over the toy runtime as a process of its own, for the tests of signals and examples."""

from __future__ import annotations

import argparse
import logging
import resource
from contextlib import ExitStack
from pathlib import Path

from sim_stream.recording.archive import RecordedSessions
from sim_stream.recording.recorder import Recorder
from sim_stream.wire.guard import Guard
from sim_stream.wire.server import StreamServer
from tests.wire.toy import ToyRuntime

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bind", default="tcp://127.0.0.1:0")
    parser.add_argument("--record", type=Path)
    parser.add_argument("--key", type=Path)
    parser.add_argument("--allow", type=Path)
    parser.add_argument("--record-format", default="ffv1")
    parser.add_argument("--file-bytes", type=int, help="no file may grow beyond this")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    if options.file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (options.file_bytes, options.file_bytes))
    with ExitStack() as stack:
        recorder = archive = None
        if options.record is not None:
            recorder = stack.enter_context(
                Recorder(options.record, by="server", form=options.record_format)
            )
            archive = RecordedSessions(options.record)
        guard = Guard.load(options.key, options.allow)
        server = StreamServer(
            ToyRuntime(), bind=options.bind, observer=recorder, archive=archive, guard=guard
        )
        server.serve_forever()
