"""A server of our own in a process of its own: ``sim-stream serve`` started, awaited, stopped, and
started again at the same address.

Knows the subcommand's options and its ready line; nothing about models or the wire.
"""

from __future__ import annotations

import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import IO, Self

from sim_stream.errors import RemoteError, Unavailable
from sim_stream.logs import progress

READY = "ready "  # before the endpoint, on the server's stdout
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 15.0
LAST_LINES = 3
LOOPBACK = "tcp://127.0.0.1:0"
MISTAKE = 2  # its exit status when its one line on stderr says all
# A client may know that its server is gone before the system has counted it as dead.
DYING_S = 2.0


class ServerProcess:
    """Context manager; ``endpoint`` is where the server listens, on a free loopback port.

    ``options`` are handed to ``sim-stream serve``. What the server says on stderr is passed on once
    it is ready; before that it becomes the message of Unavailable, which entering raises when the
    server does not start, and on a terminal its progress is shown. The server ends with this
    process, however this process ends: it reads its stdin, which closes then.
    """

    def __init__(
        self, options: Sequence[str] = (), *, start_timeout_s: float = START_TIMEOUT_S
    ) -> None:
        self._options = list(options)
        self._start_timeout_s = start_timeout_s
        self._said: deque[str] = deque(maxlen=50)
        self._ready = threading.Event()
        self._given_up = False
        self.endpoint = ""

    def __enter__(self) -> Self:
        self._start(LOOPBACK)
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

    def restart(self) -> None:
        """A new process at the same address, with the same options. Raises Unavailable."""
        self.stop()
        self._start(self.endpoint)

    def give_up(self) -> None:
        """From another thread: whoever starts the server gets Unavailable soon; none is left."""
        self._given_up = True
        with suppress(OSError):
            self._process.terminate()

    def stop(self) -> None:
        """Lets the server finish its frame, then ends it; an interrupt meanwhile kills it.

        Idempotent.
        """
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except BaseException as error:
                self._process.kill()
                self._process.wait()
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()

    def obituary(self) -> str:
        """How a server that is dead ended, and the last that it said; never empty."""
        status = self._process.wait()
        self._listener.join()
        lines = [line for said in [*self._said][-LAST_LINES:] if (line := said.strip())]
        said = f"it said last: {' | '.join(lines)}" if lines else "it said nothing"
        return f"{ending(status)}; {said}"

    @contextmanager
    def answering(self) -> Iterator[None]:
        """What a client cannot get from a server that died becomes Unavailable, with the reason."""
        try:
            yield
        except RemoteError as error:
            if error.code not in ("CONNECTION_LOST", "SHUTTING_DOWN"):
                raise
            try:
                self._process.wait(DYING_S)
            except subprocess.TimeoutExpired:
                raise error from None
            raise Unavailable(f"the server died: {self.obituary()}") from error

    def _start(self, bind: str) -> None:
        command = [
            *(sys.executable, "-m", "sim_stream", "serve"),
            *("--bind", bind, "--until-stdin-closes"),
            *self._options,
        ]
        self._said.clear()
        self._ready.clear()
        # A process group of its own: Ctrl-C comes to us, and we stop the server in good order.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="backslashreplace",
            process_group=0,
        )
        if sys.stderr.isatty():
            print("starting a server: loading the model", file=sys.stderr, flush=True)
        if self._given_up:
            self._process.terminate()
        self._listener = threading.Thread(
            target=self._listen, args=(self._process.stderr,), daemon=True
        )
        self._listener.start()
        try:
            self.endpoint = self._await_ready()
        except BaseException:
            self.stop()
            raise
        self._ready.set()

    def _await_ready(self) -> str:
        assert self._process.stdout is not None
        deadline_s = time.monotonic() + self._start_timeout_s
        while _readable(self._process.stdout, deadline_s - time.monotonic()):
            line = self._process.stdout.readline()
            if line.startswith(READY):
                return line.removeprefix(READY).strip()
            if not line:
                raise Unavailable(self._why_not_started())
        raise Unavailable(f"the server was not ready within {self._start_timeout_s:g} s")

    def _why_not_started(self) -> str:
        """Its own line where it says that something was a mistake."""
        status = self._process.wait()
        self._listener.join()
        last = self._said[-1].strip() if self._said else ""
        if status == MISTAKE and last.startswith("sim-stream serve: "):
            return last.removeprefix("sim-stream serve: ")
        return f"the server did not start: {self.obituary()}"

    def _listen(self, stderr: IO[str]) -> None:
        """Keeps stderr flowing: a full pipe would stop the server."""
        for line in stderr:
            self._said.append(line)
            told = sys.stderr.isatty() and f" {progress.name}: " in line
            if self._ready.is_set() or told:
                with suppress(OSError, ValueError):  # nobody listens to us
                    sys.stderr.write(line)


def ending(status: int) -> str:
    """How a process ended, by its status as Popen gives it."""
    if status >= 0:
        return f"it ended with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    why = " (out of memory?)" if -status == signal.SIGKILL else ""
    return f"it was ended by {name}{why}"


def _readable(pipe: IO[str], timeout_s: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        return bool(selector.select(max(0.0, timeout_s)))
