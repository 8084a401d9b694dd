"""``python -m tests.wire.serve_toy map|clip --bind ADDRESS``: a toy world for clients in C++."""

from __future__ import annotations

import sys

from tests.wire import toy_server

if __name__ == "__main__":
    toy_server.main(["--world", sys.argv[1], *sys.argv[2:]])
