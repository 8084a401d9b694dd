"""``StreamClient``: sends driving frames and actions to a server, gets predicted frames back.

    with StreamClient("tcp://127.0.0.1:5555") as client, client.open(frames_THWC) as session:
        frame = session.step(Action(speed_mps=10.0, yaw_rate_radps=0.0))

Imports no torch; knows the protocol, not the models. One client belongs to one process, and to one
thread at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import zmq

from sim_stream.config import require_finite
from sim_stream.errors import InvalidInput, SessionClosed
from sim_stream.wire.client.arguments import InputsLike, Opening, Start
from sim_stream.wire.client.blocking_connection import Connection
from sim_stream.wire.client.frame import RemoteChunk, RemoteFrame
from sim_stream.wire.client.link import request_status, say_hello
from sim_stream.wire.client.operations import run
from sim_stream.wire.client.owner import NotCopied
from sim_stream.wire.client.patience import BUSY_S, CONNECT_TIMEOUT_S
from sim_stream.wire.client.session import RemoteSession
from sim_stream.wire.client.stream import open_stream
from sim_stream.wire.endpoints import require_endpoint
from sim_stream.wire.keys import ClientKeys
from sim_stream.wire.messages import HelloOk, Status
from sim_stream.wire.observe import Observer

__all__ = ["RemoteChunk", "RemoteFrame", "RemoteSession", "StreamClient"]

# How long a session may take to come back when its server was restarted.
RESUME_S = 60.0


class StreamClient(NotCopied):
    """A connection to one server; ``info`` says what it runs (``messages.HelloOk``).

    Where the server records its sessions, they survive its restart: whatever was asked for is
    asked again of the server that comes within ``resume_s``, which goes on where the session was;
    that takes it as long as the session's steps took. 0: sessions end with their server.

    Waits up to ``timeout_s`` for a server that is silent; what the server does once however often
    it is asked is asked again meanwhile. One that answers heartbeats and says that it has the
    request, a model that is being compiled, say, is waited for up to ``busy_s`` (a ``timeout_s``
    below 1.5 s ends before it could say so). At an address where nobody listens a server may take
    ``connect_timeout_s`` to appear. Raises NobodyListens after that, ConnectionLost,
    and RemoteError when the server speaks another protocol version. ``observer``
    sees every session's requests and replies (a recorder). A server beyond this machine asks for
    ``key``, this client's secret key file, and ``server_key``, the server's public one; to one that
    does not take them the RemoteError is UNAUTHENTICATED.
    """

    def __init__(
        self,
        endpoint: str = "tcp://127.0.0.1:5555",
        *,
        timeout_s: float = 30.0,
        resume_s: float = RESUME_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        busy_s: float = BUSY_S,
        observer: Observer | None = None,
        key: str | Path | None = None,
        server_key: str | Path | None = None,
    ) -> None:
        require_endpoint("endpoint", endpoint)
        check_patience(timeout_s, resume_s, connect_timeout_s, busy_s)
        keys = ClientKeys.load(key, server_key)
        try:
            self._connection = Connection(
                endpoint,
                timeout_s=timeout_s,
                resume_s=resume_s,
                connect_timeout_s=connect_timeout_s,
                busy_s=busy_s,
                keys=keys,
            )
        except zmq.ZMQError as error:
            raise InvalidInput("endpoint", endpoint, f"tcp://HOST:PORT ({error})") from error
        self._observer = observer
        with ExitStack() as on_failure:
            on_failure.callback(self._connection.close)
            run(say_hello(self._connection), self._connection)
            on_failure.pop_all()

    @property
    def info(self) -> HelloOk:
        """What the server said of itself; after a session was resumed, the server that did it."""
        return self._connection.info

    @property
    def endpoint(self) -> str:
        return self._connection.endpoint

    def __enter__(self) -> StreamClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def open(
        self,
        frames: Any = None,
        *,
        seed: int = 0,
        inputs: InputsLike | None = None,
        prompt_inputs: Sequence[InputsLike | None] | None = None,
        options: Mapping[str, float | str] | None = None,
        lookahead: int | None = None,
        record: bool | None = None,
        mode: str = "lockstep",
    ) -> RemoteSession:
        """Opens a session on prompt frames, uint8 [T, H, W, 3], oldest first.

        What may be given is in ``info.spec``: ``inputs`` are the session's, ``prompt_inputs`` the
        step inputs that led to each prompt frame (None: unknown), ``options`` others than the
        defaults; None for ``frames`` where the model starts from none. ``lookahead`` n: the reply
        to a step shows what was predicted n steps before, decoded with what followed; None takes
        the server's. ``record``: True asks for a server that records, False not to be recorded.
        ``mode`` "realtime": the server takes the newest step, one a period at most; ``send_step``
        at any pace, and ``receive`` gives the frames of the steps that were taken.
        """
        start = Start(
            frames=frames, seed=seed, inputs=inputs, prompt_inputs=prompt_inputs, options=options
        )
        what = Opening(start=start, lookahead=lookahead, record=record, mode=mode)
        opening = open_stream(self._connection, self._observer, what)
        return RemoteSession(self._connection, run(opening, self._connection))

    def greet(self) -> HelloOk:
        """Meets whatever server answers at this address now, after the last one went: what it says
        of itself, which is ``info`` from here on."""
        self._connection.require_owner()
        if self._connection.closed:
            raise SessionClosed("the client is closed")
        return run(say_hello(self._connection, anew=True), self._connection)

    def status(self) -> Status:
        """The server's sessions, queue and progress; answered even while the engine computes."""
        self._connection.require_owner()
        if self._connection.closed:
            raise SessionClosed("the client is closed")
        return run(request_status(self._connection, ""), self._connection)

    def close(self) -> None:
        """Ends the connection and, without waiting, the sessions still open. Idempotent.

        In a process forked from the client's it does nothing.
        """
        if not self._connection.elsewhere:
            with self._connection.using():
                self._connection.close()


def check_patience(
    timeout_s: float, resume_s: float, connect_timeout_s: float, busy_s: float
) -> None:
    """Raises InvalidInput."""
    if require_finite("timeout_s", timeout_s) <= 0:
        raise InvalidInput("timeout_s", timeout_s, "more than 0 seconds")
    others = {"resume_s": resume_s, "connect_timeout_s": connect_timeout_s, "busy_s": busy_s}
    for name, seconds in others.items():
        if require_finite(name, seconds) < 0:
            raise InvalidInput(name, seconds, "0 seconds or more")
