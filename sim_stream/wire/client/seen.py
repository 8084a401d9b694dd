"""What a client shows to whoever watches: the reply with its own stamps."""

from __future__ import annotations

import msgspec

from sim_stream.wire.client.frame import RemoteFrame
from sim_stream.wire.engine import Image
from sim_stream.wire.messages import HelloOk
from sim_stream.wire.observe import Exchange, FrameReply, SessionRequest


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
