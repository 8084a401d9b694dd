"""A server of our own in a process of its own: ``sim-stream serve`` started, awaited, stopped.

Knows the verb's options and its ready line; nothing about models or the wire.
"""

from __future__ import annotations

import selectors
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Self

from sim_stream.errors import Unavailable
from sim_stream.logs import progress
from sim_stream.serve import READY

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 15.0


class ServerProcess:
    """Context manager; ``endpoint`` is where the server listens, on a free loopback port.

    ``options`` are handed to ``sim-stream serve``. What the server says on stderr is passed on once
    it is ready; before that it becomes the message of Unavailable, which entering raises when the
    server does not start, and on a terminal its progress is shown. The server ends with this
    process, however this process ends.
    """

    def __init__(
        self, options: Sequence[str] = (), *, start_timeout_s: float = START_TIMEOUT_S
    ) -> None:
        self._command = [
            *(sys.executable, "-m", "sim_stream", "serve"),
            *("--bind", "tcp://127.0.0.1:0", "--until-stdin-closes"),
            *options,
        ]
        self._start_timeout_s = start_timeout_s
        self._said: deque[str] = deque(maxlen=50)
        self._ready = threading.Event()
        self.endpoint = ""

    def __enter__(self) -> Self:
        # A process group of its own: Ctrl-C comes to us, and we stop the server in good order.
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="backslashreplace",  # bytes that are no text must not end the listener
            process_group=0,
        )
        if sys.stderr.isatty():
            print("starting a server: loading the model", file=sys.stderr, flush=True)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        try:
            self.endpoint = self._await_ready()
        except BaseException:
            self.stop()
            raise
        self._ready.set()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def exit_status(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """Lets the server finish its frame, then ends it. Idempotent."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()

    def last_words(self) -> str:
        """Its last line on stderr, without the command's name."""
        last = self._said[-1].strip() if self._said else ""
        return last.removeprefix("sim-stream serve: ")

    def _await_ready(self) -> str:
        assert self._process.stdout is not None
        deadline_s = time.monotonic() + self._start_timeout_s
        while _readable(self._process.stdout, deadline_s - time.monotonic()):
            line = self._process.stdout.readline()
            if line.startswith(READY):
                return line.removeprefix(READY).strip()
            if not line:
                status = self._process.wait()
                self._listener.join()
                raise Unavailable(self.last_words() or f"the server ended with status {status}")
        raise Unavailable(f"the server was not ready within {self._start_timeout_s:g} s")

    def _listen(self) -> None:
        """Keeps stderr flowing: a full pipe would stop the server."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said.append(line)
            told = sys.stderr.isatty() and f" {progress.name}: " in line
            if self._ready.is_set() or told:
                sys.stderr.write(line)


def _readable(pipe: IO[str], timeout_s: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        return bool(selector.select(max(0.0, timeout_s)))
