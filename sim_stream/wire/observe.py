"""What a server or a client shows to whoever watches its sessions: each request with its reply.

Recorders hang on here. Knows no files, no sockets and no threads.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from sim_stream.wire.archive import Past
from sim_stream.wire.engine import Image
from sim_stream.wire.frame import RemoteFrame
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

SessionRequest = Open | Reset | Step | Fork | Resume | Close
FrameReply = Opened | FrameMessage | Closed


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A request that reached the engine, with its reply.

    ``sid`` is the session that it made or concerned. ``frames`` [T, H, W, 3] came with an open or
    reset, ``image`` [H, W, 3] with the reply. Nobody writes to either any more. ``past``: what a
    resumed session was rebuilt from. ``written``: a server that can resume waits for it before it
    sends the reply; a recorder says whether the exchange will survive the process's death.
    """

    info: HelloOk
    sid: str
    request: SessionRequest
    reply: FrameReply | Error
    frames: Image | None = None
    image: Image | None = None
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


def as_client_saw_it(
    info: HelloOk,
    request: SessionRequest,
    reply: FrameReply,
    frame: RemoteFrame | None,
    frames: Image | None = None,
) -> Exchange:
    """With the client's own stamps; its pixels are copied, since they are the caller's to change.

    ``frame`` None: the reply has none.
    """
    if frame is None or reply.frame is None:
        return Exchange(info=info, sid=reply.sid, request=request, reply=reply)
    seen = msgspec.structs.replace(
        reply.frame, timings_ns=frame.timings_ns, stamps_ns=frame.stamps_ns
    )
    return Exchange(
        info=info,
        sid=reply.sid,
        request=request,
        reply=msgspec.structs.replace(reply, frame=seen),
        frames=None if frames is None else frames.copy(),
        image=frame.image.copy(),
    )
