"""Processes that a fault may kill, stop or starve: servers and clients with everything they say.

Every child holds a pipe from us as its stdin and ends when that closes: however this program ends,
nothing is left running. Knows no fault.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Self

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 60.0
END_TIMEOUT_S = 15.0
POLL_S = 0.005

_READY = re.compile(r"ready: (\S+) serves [^\s,]+(?:, viewers at ([^\s,]+))?")


class Violated(Exception):
    """What must hold did not hold; the message says what and with which figures."""


def require(holds: bool, otherwise: str) -> None:
    """Raises Violated with that message unless it holds."""
    if not holds:
        raise Violated(otherwise)


def wait_until(what: str, holds: Callable[[], bool], *, timeout_s: float) -> float:
    """Seconds until it held. Raises Violated when it does not within ``timeout_s``."""
    start_s = time.monotonic()
    while not holds():
        if time.monotonic() - start_s > timeout_s:
            raise Violated(f"{what}: not within {timeout_s:g} s")
        time.sleep(POLL_S)
    return time.monotonic() - start_s


class Memory:
    """How a process grows from here on, in resident memory.

    ``bound_mib``: what it may have grown by in the end, ``peak_mib`` meanwhile (None: the same).
    """

    def __init__(self, pid: int, *, bound_mib: float, peak_mib: float | None = None) -> None:
        self._folder = Path(f"/proc/{pid}")
        (self._folder / "clear_refs").write_text("5")  # the peak counts from now
        self._before_mib, _ = self._read()
        self._bound_mib = bound_mib
        self._peak_mib = bound_mib if peak_mib is None else peak_mib

    def check(self) -> dict[str, str]:
        """Its figures. Raises Violated."""
        now_mib, peak_mib = self._read()
        grown_mib, peaked_mib = now_mib - self._before_mib, peak_mib - self._before_mib
        require(grown_mib < self._bound_mib, f"the server grew by {grown_mib:.0f} MiB")
        require(peaked_mib < self._peak_mib, f"the server grew by up to {peaked_mib:.0f} MiB")
        figure = f"{self._before_mib:.0f} MiB {grown_mib:+.0f}, peak {peaked_mib:+.0f}"
        return {"memory": f"{figure} (bounds {self._bound_mib:.0f}, {self._peak_mib:.0f})"}

    def _read(self) -> tuple[float, float]:
        """Now, and the peak; MiB."""
        status = (self._folder / "status").read_text()
        found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", status, re.MULTILINE))
        return int(found["VmRSS"]) / 1024, int(found["VmHWM"]) / 1024


class Child:
    """A context manager; a line of stdout goes to ``hear``, stderr is kept in ``said``.

    ``prefix``: a command that runs ours, such as ``nsenter ... --``.
    """

    def __init__(
        self,
        module: str,
        *options: str | Path,
        prefix: Sequence[str] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        self.said: list[str] = []
        self._command = [*prefix, sys.executable, "-m", module, *map(str, options)]
        self._environment = os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {})

    def __enter__(self) -> Self:
        # A process group of its own: Ctrl-C comes to us, and we end our children in good order.
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
            process_group=0,
        )
        assert self._process.stdout is not None and self._process.stderr is not None
        self._listeners = [
            self._listen(self._process.stdout, self.hear),
            self._listen(self._process.stderr, self.said.append),
        ]
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def hear(self, line: str) -> None:
        """A line of stdout; called on a thread of its own."""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and gone."""
        self._process.kill()
        self._join()

    def tell(self, line: str) -> None:
        """A line for its stdin."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def end(self) -> int:
        """Closes its stdin and waits; kills it when that takes too long. Idempotent."""
        assert self._process.stdin is not None
        if self.alive:
            self.signal(signal.SIGCONT)
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        return self._join()

    def require_alive(self) -> None:
        if not self.alive:
            tail = "; ".join(self.said[-3:])
            raise Violated(f"{self._command[2:5]} ended with {self._process.poll()}: {tail}")

    def _join(self) -> int:
        status = self._process.wait()
        for listener in self._listeners:
            listener.join()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()
        return status

    def _listen(self, pipe: IO[str], hear: Callable[[str], None]) -> threading.Thread:
        def listen() -> None:
            for line in pipe:
                hear(line.rstrip("\n"))

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        return listener


class Server(Child):
    """A server process; ``endpoint`` and ``publish_endpoint`` once entered."""

    endpoint = ""
    publish_endpoint = ""

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            wait_until("the server is ready", self._ready, timeout_s=START_TIMEOUT_S)
        except BaseException:
            self.end()
            raise
        return self

    def memory(self, *, bound_mib: float, peak_mib: float | None = None) -> Memory:
        """Its growth from here on."""
        return Memory(self.pid, bound_mib=bound_mib, peak_mib=peak_mib)

    def has_said(self, words: str) -> bool:
        """Whether a line of the log holds these words."""
        return any(words in line for line in [*self.said])

    def _ready(self) -> bool:
        self.require_alive()
        for line in [*self.said]:
            found = _READY.search(line)
            if found:
                self.endpoint, self.publish_endpoint = found[1], found[2] or ""
                return True
        return False


def toy_server(*options: str | Path, **how: object) -> Server:
    """``tests.wire.toy_server``: numpy images in place of models, the real wire around them."""
    return Server("tests.wire.toy_server", "--until-stdin-closes", *options, **how)  # type: ignore[arg-type]


def pocket_server(*options: str | Path, **how: object) -> Server:
    """``sim-stream serve`` with the shipped model."""
    always = ("serve", "--bind", "tcp://127.0.0.1:0", "--until-stdin-closes")
    return Server("sim_stream", *always, "--log-level", "info", *options, **how)  # type: ignore[arg-type]
