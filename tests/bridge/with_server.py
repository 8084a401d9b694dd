"""Runs a program, one of the C++ client's tests, against a server of its own.

SIM_STREAM_ENDPOINT says where the server is, SIM_STREAM_PATIENCE_MS how long to wait for a reply.

    python -m tests.bridge.with_server toy|pocket PROGRAM [ARGUMENT ...]

`toy` is the server of the wire's tests, with numpy in place of models: quick, and no torch.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack

# How long a client waits for a reply that never comes: well beyond what a step takes.
PATIENCE_MS = {"toy": 500, "pocket": 3000}


def main(kind: str, command: list[str]) -> int:
    with ExitStack() as on_exit:
        environment = {
            **os.environ,
            **start(kind, on_exit),
            "SIM_STREAM_PATIENCE_MS": str(PATIENCE_MS[kind]),
        }
        return subprocess.run(command, env=environment, check=False).returncode


def start(kind: str, on_exit: ExitStack) -> dict[str, str]:
    """Where a server is that ends with ``on_exit``; of the toy server its process, too."""
    if kind == "pocket":
        from sim_stream.server_process import ServerProcess

        server = on_exit.enter_context(ServerProcess(["--preset", "pocket"]))
        return {"SIM_STREAM_ENDPOINT": server.endpoint}
    from tests.wire.conftest import ServerProcess as ToyServerProcess

    toy = ToyServerProcess()
    on_exit.callback(toy.process.wait)
    on_exit.callback(toy.process.terminate)
    return {"SIM_STREAM_ENDPOINT": toy.endpoint, "SIM_STREAM_SERVER_PID": str(toy.process.pid)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
