"""What watches sessions, and what brings them back: each request with its reply, archives of them.

Recorders hang on here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from sim_stream.errors import SimStreamError
from sim_stream.spec import Inputs
from sim_stream.stream_model import Image
from sim_stream.wire.framing import Arrays
from sim_stream.wire.inputs import StartValues
from sim_stream.wire.messages import (
    Close,
    Closed,
    Error,
    Fork,
    FrameMessage,
    HelloOk,
    Open,
    Opened,
    Reset,
    Resume,
    Step,
)

# By how many steps a session's recording may be behind its replies; a client that remembers as many
# loses none. A recording that falls further behind is given up.
RESUME_STEPS = 1024


class NotResumable(SimStreamError):
    """A session that cannot be gone on with, and why."""


class Archive(Protocol):
    """``key`` signs tokens and is the same after a restart."""

    @property
    def key(self) -> bytes: ...

    def find(self, sid: str, *, model_id: str, weights_sha256: str) -> Past:
        """Raises NotResumable where there is nothing that this model could go on from."""
        ...


SessionRequest = Open | Reset | Step | Fork | Resume | Close
FrameReply = Opened | FrameMessage | Closed


@dataclass(frozen=True, kw_only=True)
class PastStep:
    """A step that was taken, with what came with it."""

    request: Step
    inputs: Inputs
    arrays: Arrays


@dataclass(frozen=True, kw_only=True)
class Past:
    """A session as its recording tells it: enough to make it again.

    ``start`` names all its options. ``steps`` are read from the recording as they are asked for;
    one that is not as it was recorded raises InvalidInput. ``forks``: the seeds it was forked with,
    each before the step of that index. ``sha256``: of the pixels that each reply showed, the
    start's first. ``source``, ``lines`` and ``part`` say where it stands, for the recording that
    goes on from there.
    """

    start: StartValues
    seed: int
    lookahead: int
    mode: str
    steps: Iterator[PastStep]
    sha256: list[list[str]]
    forks: Mapping[int, int] = field(default_factory=dict)
    source: str
    lines: int
    part: int


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A request that reached the engine, with its reply.

    ``sid`` is the session that it made or concerned. ``arrays`` came with the request, ``images``
    [N, H, W, 3] with the reply. Nobody writes to either any more. ``past``: what a
    resumed session was rebuilt from. ``written``: a server that can resume waits for it before it
    sends the reply; a recorder says whether the exchange will survive the process's death.
    """

    info: HelloOk
    sid: str
    request: SessionRequest
    reply: FrameReply | Error
    arrays: Arrays = field(default_factory=dict)
    images: Image | None = None
    past: Past | None = None
    written: Future[bool] | None = None


# Called on the thread that moves the messages: it must return at once and never raise.
Observer: TypeAlias = Callable[[Exchange], None]


def together(*observers: Observer | None) -> Observer | None:
    """All of them as one; None where there is none."""
    present = [observer for observer in observers if observer is not None]
    if len(present) < 2:
        return present[0] if present else None

    def show(exchange: Exchange) -> None:
        for observer in present:
            observer(exchange)

    return show
