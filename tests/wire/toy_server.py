"""A server over the toy runtime as a process of its own, for the tests of signals and examples."""

from __future__ import annotations

import argparse
import logging

from sim_stream.wire.server import StreamServer
from tests.wire.toy import ToyRuntime

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bind", default="tcp://127.0.0.1:0")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    StreamServer(ToyRuntime(), bind=parser.parse_args().bind).serve_forever()
