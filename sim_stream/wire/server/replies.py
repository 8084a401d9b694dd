"""From the engine's results to the packets that clients and viewers get.

Replies that begin a session wait until its recording would survive this process: a client that has
the reply can resume the session, from the right start.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

import msgspec

from sim_stream.wire.framing import Arrays, Packet
from sim_stream.wire.messages import (
    Close,
    Closed,
    Fork,
    FrameInfo,
    FrameMessage,
    Open,
    Opened,
    Reset,
    Resume,
)
from sim_stream.wire.server.jobs import Remembered, Result


def reply_to(result: Result, *, queue_depth: int, dropped: int, now_ns: int) -> Packet:
    """The reply to the job that has ended, not yet addressed to anybody."""
    job = result.job
    if result.refusal is not None:
        sid = "" if isinstance(job.request, Open | Resume) else job.request.sid
        return Packet(result.refusal.to_error(rid=0, sid=sid, committed_step=result.committed_step))
    frames = [
        msgspec.structs.replace(
            info,
            queue_depth=queue_depth,
            dropped=dropped,
            stamps_ns=info.stamps_ns | {"srv_send": now_ns},
        )
        for info in result.infos
    ]
    arrays: Arrays = {} if result.images is None else {"images": result.images}
    return Packet(_message(result, frames), arrays)


def _message(result: Result, frames: list[FrameInfo]) -> Opened | FrameMessage | Closed:
    job, step, psnr_db = result.job, result.committed_step, result.prompt_psnr_db
    if isinstance(job.request, Open | Fork | Resume):
        return Opened(
            sid=job.sid,
            committed_step=step,
            seed=result.seed,
            frames=frames,
            prompt_psnr_db=psnr_db,
        )
    if isinstance(job.request, Close):
        return Closed(sid=job.sid, committed_step=step, frames=frames)
    return FrameMessage(sid=job.sid, committed_step=step, frames=frames, prompt_psnr_db=psnr_db)


def remembered_reply(sid: str, one: Remembered) -> Packet:
    """The reply to a step that was taken before the session was resumed."""
    step = one.request.step
    message = FrameMessage(sid=sid, committed_step=step, frames=one.infos)
    return Packet(message, {"images": one.images})


def addressed(packet: Packet, rid: int) -> Packet:
    """The packet as the reply to that request; the arrays are shared."""
    return Packet(msgspec.structs.replace(packet.message, rid=rid), packet.arrays)


def viewers_copy(packet: Packet) -> Packet:
    """Frames reach viewers as a ``frames`` message, whatever their client had asked."""
    message = packet.message
    assert isinstance(message, Opened | FrameMessage | Closed) and message.frames
    return Packet(
        FrameMessage(sid=message.sid, committed_step=message.committed_step, frames=message.frames),
        packet.arrays,
    )


# How long an opening waits before it goes without a recording.
HOLD_NS = 2_000_000_000


@dataclass(frozen=True)
class _Held:
    result: Result
    packet: Packet
    give_up_ns: int
    written: Future[bool] = field(default_factory=Future)

    def due(self, now_ns: int) -> bool:
        """A reset waits on, lest a resumed session go on from before it."""
        patient = isinstance(self.result.job.request, Reset) or now_ns < self.give_up_ns
        return self.written.done() or not patient


class HeldReplies:
    """In the order in which they came."""

    def __init__(self) -> None:
        self._held: list[_Held] = []

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, result: Result, packet: Packet, now_ns: int) -> Future[bool]:
        """What a recorder tells that the exchange was written, or never will be."""
        held = _Held(result, packet, now_ns + HOLD_NS)
        self._held.append(held)
        return held.written

    def due(self, now_ns: int) -> Iterator[tuple[Result, Packet, bool]]:
        """Those that may leave, and whether they were written."""
        due = [held for held in self._held if held.due(now_ns)]
        self._held = [held for held in self._held if held not in due]
        for held in due:
            yield held.result, held.packet, _was_written(held.written)


def _was_written(written: Future[bool]) -> bool:
    """Not if whoever was to write it failed at saying so."""
    if not written.done() or written.cancelled() or written.exception() is not None:
        return False
    return written.result()


def begins(result: Result) -> bool:
    """Whether the session begins with it."""
    return result.refusal is None and isinstance(result.job.request, Open | Fork | Reset | Resume)
