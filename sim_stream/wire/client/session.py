"""``RemoteSession``: one stream of predicted frames, as its user sees it.

Runs the operations of ``stream`` and waits for them. One thread at a time uses a client and all its
sessions; a session that is dropped without a close is closed at the server all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from sim_stream.wire.client.arguments import InputsLike, Start
from sim_stream.wire.client.blocking_connection import Connection
from sim_stream.wire.client.frame import RemoteChunk
from sim_stream.wire.client.operations import run
from sim_stream.wire.client.owner import NotCopied
from sim_stream.wire.client.stream import Stream, first_chunk
from sim_stream.wire.messages import Status


class RemoteSession(NotCopied):
    """Opened by ``StreamClient.open``; a context manager that closes it.

    Methods raise InvalidInput (nothing was sent), RemoteError (the server refused),
    ConnectionLost (no answer; the session may live on), SessionClosed, and WrongOwner in a forked
    process or while another thread is in a call of the same client.
    """

    def __init__(self, connection: Connection, stream: Stream) -> None:
        self._connection = connection
        self._stream = stream

    def __enter__(self) -> RemoteSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abandon()  # the error at hand matters more than what closing could raise

    @property
    def sid(self) -> str:
        return self._stream.sid

    @property
    def frame(self) -> RemoteChunk:
        """What the opening or the last reset showed; after ``fork`` the parent's last.

        Raises InvalidInput where the session began without prompt frames.
        """
        return first_chunk(self._stream)

    @property
    def seed(self) -> int:
        """Of its noise from here on."""
        return self._stream.seed

    @property
    def prompt_psnr_db(self) -> float | None:
        """Of the last prompt frame and ``frame`` 0, its reconstruction; None: the model has none.

        A fork has its parent's.
        """
        return self._stream.prompt_psnr_db

    @property
    def prompt_is_foreign(self) -> bool:
        """Whether the model cannot show its prompt, so that the drive will collapse; logged once.

        False where the weights do not say what they can show (``info.spec``).
        """
        return self._stream.prompt_is_foreign

    @property
    def prompt_warning(self) -> str:
        """That in words; empty where the prompt is not foreign."""
        return self._stream.prompt_warning

    @property
    def in_flight(self) -> int:
        """Steps sent whose replies were not received."""
        return len(self._stream.in_flight)

    def step(
        self,
        inputs: InputsLike | None = None,
        *,
        sim_time_us: int | None = None,
        deadline_ms: int | None = None,
    ) -> RemoteChunk:
        """Predicts one step further and waits for the reply. ``inputs``: by name, as
        ``info.spec.step_inputs`` says; an ``Action``; or the numbers in their order.

        After ConnectionLost the step is still in flight: ``receive`` asks for it again.
        """
        return run(self._stream.step(inputs, sim_time_us, deadline_ms), self._connection)

    def send_step(
        self,
        inputs: InputsLike | None = None,
        *,
        sim_time_us: int | None = None,
        deadline_ms: int | None = None,
    ) -> int:
        """Sends a step without waiting; its number.

        ``deadline_ms``: how long it may queue; of a model that can, when its frames must leave.
        """
        return run(self._stream.send_step(inputs, sim_time_us, deadline_ms), self._connection)

    def ready(self, timeout_s: float = 0.0) -> bool:
        """Whether ``receive`` would return at once; waits for that, up to ``timeout_s``."""
        with self._connection.using():
            self._stream.require_open()
            while in_flight := self._stream.in_flight:
                if not self._connection.poll(in_flight[0].rid, timeout_s):
                    return False
                if not self._stream.shed():
                    return True
            return False

    def receive(self) -> RemoteChunk:
        """The reply to the oldest step in flight; asks again when it was lost before."""
        return run(self._stream.receive(), self._connection)

    def reset(
        self,
        frames: Any = None,
        *,
        seed: int = 0,
        inputs: InputsLike | None = None,
        prompt_inputs: Sequence[InputsLike | None] | None = None,
        options: Mapping[str, float | str] | None = None,
    ) -> RemoteChunk | None:
        """Starts anew from prompt frames (``StreamClient.open``); steps count from 1 again."""
        start = Start(
            frames=frames, seed=seed, inputs=inputs, prompt_inputs=prompt_inputs, options=options
        )
        return run(self._stream.reset(start), self._connection)

    def fork(self, *, seed: int | None = None) -> RemoteSession:
        """A second session that continues from here, independent of this one.

        With equal inputs its frames are equal, unless ``seed`` gives it noise of its own.
        """
        stream = run(self._stream.fork(seed), self._connection)
        return RemoteSession(self._connection, stream)

    def status(self) -> Status:
        """The server's progress; asking keeps the session from expiring."""
        return run(self._stream.status(), self._connection)

    def close(self) -> RemoteChunk | None:
        """Ends the session; the last frames, when the lookahead still held some. Idempotent.

        In a process forked from the client's it does nothing: the session is the other's.
        """
        if self._connection.elsewhere:
            return None
        return run(self._stream.close(), self._connection)

    def abandon(self) -> bool:
        """Tells the server, without waiting, that the session is over; says whether it did."""
        if self._connection.elsewhere:
            return False
        with self._connection.using():
            return self._stream.abandon()
