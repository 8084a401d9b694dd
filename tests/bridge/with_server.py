"""Runs a program, one of the C++ client's tests, against a server of its own.

SIM_STREAM_ENDPOINT says where the server is, SIM_STREAM_PATIENCE_MS how long to wait for a reply.

    python -m tests.bridge.with_server KIND PROGRAM [ARGUMENT ...]

`toy` is the server of the wire's tests, with numpy in place of models: quick, no torch. `guarded`
is that server with keys; SIM_STREAM_KEYS is the folder of server.pub, of client.secret, which it
allows, and of stranger.secret, which it does not. `phoenix` is a toy that records and that is
started again, where it was, when it is killed. `slow` needs 3 s for a step. `map` takes a map with
every step, `clip` gives several frames (tests/wire/toy_worlds.py); `phoenix_map` is
a phoenix that takes maps.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.wire.conftest import ServerProcess

WORLDS = {
    "map": ["--world", "map"],
    "clip": ["--world", "clip"],
    "phoenix_map": ["--world", "map"],
}
# How long a client waits for a reply that never comes: well beyond what a step takes.
PATIENCE_MS = {"slow": 1200, "pocket": 3000}


def main(kind: str, command: list[str]) -> int:
    with ExitStack() as on_exit:
        environment = {
            **os.environ,
            **start(kind, on_exit),
            "SIM_STREAM_PATIENCE_MS": str(PATIENCE_MS.get(kind, 500)),
        }
        return subprocess.run(command, env=environment, check=False).returncode


def start(kind: str, on_exit: ExitStack) -> dict[str, str]:
    """Where a server is that ends with ``on_exit``; of the toy server its process, too."""
    if kind == "pocket":
        from sim_stream.server_process import ServerProcess

        server = on_exit.enter_context(ServerProcess(["--preset", "pocket"]))
        return {"SIM_STREAM_ENDPOINT": server.endpoint}
    from tests.wire.conftest import ServerProcess as ToyServerProcess

    if kind in ("phoenix", "phoenix_map"):
        return rising(ToyServerProcess, WORLDS.get(kind, []), on_exit)
    keys = Path(on_exit.enter_context(TemporaryDirectory()))
    options = {"guarded": lambda: make_keys(keys), "slow": lambda: ["--step-ms", "3000"]}
    toy = ToyServerProcess(*options.get(kind, lambda: WORLDS.get(kind, []))())
    on_exit.callback(toy.process.wait)
    on_exit.callback(toy.process.terminate)
    return {
        "SIM_STREAM_ENDPOINT": toy.endpoint,
        "SIM_STREAM_SERVER_PID": str(toy.process.pid),
        "SIM_STREAM_KEYS": str(keys),
    }


def make_keys(folder: Path) -> list[str]:
    """The options of a server that allows the client."""
    from sim_stream.wire.keys import write_pair

    for name in ("server", "client", "stranger"):
        write_pair(folder / name)
    return ["--key", str(folder / "server.secret"), "--allow", str(folder / "client.pub")]


def rising(server: type[ServerProcess], world: list[str], on_exit: ExitStack) -> dict[str, str]:
    """Its process is the first one's."""
    folder = on_exit.enter_context(TemporaryDirectory())
    toy = server(*world, "--record", folder)
    environment = {
        "SIM_STREAM_ENDPOINT": toy.endpoint,
        "SIM_STREAM_SERVER_PID": str(toy.process.pid),
    }
    over = threading.Event()

    def watch() -> None:
        current = toy
        while not over.is_set():
            if current.process.poll() is not None:
                current.process.communicate()
                current = server(*world, "--record", folder, "--bind", toy.endpoint)
            over.wait(0.05)
        current.process.terminate()
        current.process.communicate()

    watching = threading.Thread(target=watch)
    watching.start()
    on_exit.callback(watching.join)
    on_exit.callback(over.set)
    return environment


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
