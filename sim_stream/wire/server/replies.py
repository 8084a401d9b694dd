"""From the engine's results to the packets that clients and viewers get.

Knows no sessions and no sockets.
"""

from __future__ import annotations

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
