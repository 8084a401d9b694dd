"""``python -m sim_stream``: the same as the ``sim-stream`` command."""

from __future__ import annotations

import sys

from sim_stream.cli import main

if __name__ == "__main__":
    sys.exit(main())
