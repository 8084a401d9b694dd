"""A server over the toy runtime as a process of its own, for the tests of signals and of faults."""

from __future__ import annotations

import argparse
import logging
import resource
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sim_stream.recording.archive import RecordedSessions
from sim_stream.recording.recorder import Recorder
from sim_stream.serve import stop_at_end_of_stdin
from sim_stream.stream_model import StreamModel
from sim_stream.wire.observe import together
from sim_stream.wire.server.auth import Guard
from sim_stream.wire.server.rates import REQUESTS_PER_S
from sim_stream.wire.server.server import StreamServer
from tests.wire.toy import SIZE, Hooks, ToyModel, ToySession, toy_spec
from tests.wire.toy_worlds import clip_world, map_world
from tests.wire.vectors.spec import SPEC as VECTORS

MIB = 2**20
WORLDS: dict[str, Callable[[], StreamModel]] = {
    "map": map_world,
    "clip": clip_world,
    "vectors": lambda: ToyModel(VECTORS),
}


@dataclass
class HeavyModel(ToyModel):
    """Every session holds ``session_mib`` of memory, as a KV cache would."""

    session_mib: int = 0

    def open_session(self, *, lookahead: int | None = None) -> ToySession:
        session = super().open_session(lookahead=lookahead)
        session.cache = np.ones(self.session_mib * MIB, np.uint8)  # type: ignore[attr-defined]
        return session


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bind", default="tcp://127.0.0.1:0")
    parser.add_argument("--publish")
    parser.add_argument("--max-sessions", type=int, default=4)
    parser.add_argument("--lease-s", type=float, default=60.0)
    parser.add_argument("--requests-per-s", type=float, default=REQUESTS_PER_S)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--key", type=Path)
    parser.add_argument("--allow", type=Path)
    parser.add_argument("--metrics")
    parser.add_argument("--record-format", default="ffv1")
    parser.add_argument("--file-bytes", type=int, help="no file may grow beyond this")
    parser.add_argument("--size", type=int, default=SIZE, help="of the frames")
    parser.add_argument("--world", choices=[*WORLDS], help="another model instead")
    parser.add_argument("--step-ms", type=float, default=0.0, help="what the engine needs")
    parser.add_argument("--session-mib", type=int, default=0, help="memory of a session")
    parser.add_argument("--until-stdin-closes", action="store_true")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    options = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    if options.file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (options.file_bytes, options.file_bytes))
    if options.until_stdin_closes:
        threading.Thread(target=stop_at_end_of_stdin, daemon=True).start()
    model: StreamModel = HeavyModel(
        toy_spec(frame_shape=(options.size, options.size, 3)),
        hooks=Hooks(predict=lambda session, step: time.sleep(options.step_ms / 1e3)),
        session_mib=options.session_mib,
    )
    if options.world:
        model = WORLDS[options.world]()
    with ExitStack() as stack:
        recorder = archive = None
        if options.record is not None:
            recorder = stack.enter_context(
                Recorder(options.record, by="server", form=options.record_format)
            )
            archive = RecordedSessions(options.record)
        metrics = None
        if options.metrics is not None:
            from sim_stream.metrics import Metrics, exported

            metrics = Metrics()
            logging.info("metrics at %s", stack.enter_context(exported(metrics, options.metrics)))
        server = StreamServer(
            model,
            bind=options.bind,
            publish=options.publish,
            max_sessions=options.max_sessions,
            lease_s=options.lease_s,
            observer=together(recorder, metrics),
            archive=archive,
            requests_per_s=options.requests_per_s,
            guard=Guard.load(options.key, options.allow),
        )
        if metrics is not None:
            metrics.watch(server.counters)
        server.serve_forever()


if __name__ == "__main__":
    main()
