"""What a client shows to whoever watches: the reply with its own stamps."""

from __future__ import annotations

import msgspec

from sim_stream.wire.client.frame import RemoteChunk
from sim_stream.wire.framing import Arrays
from sim_stream.wire.messages import HelloOk
from sim_stream.wire.observe import Exchange, FrameReply, SessionRequest


def as_client_saw_it(
    info: HelloOk,
    request: SessionRequest,
    reply: FrameReply,
    chunk: RemoteChunk | None,
    arrays: Arrays | None = None,
) -> Exchange:
    """With the client's own stamps; pixels are copied, since they are the caller's to change.

    ``chunk`` None: the reply has no frames.
    """
    sent = {name: array.copy() for name, array in (arrays or {}).items()}
    if chunk is None:
        return Exchange(info=info, sid=reply.sid, request=request, reply=reply, arrays=sent)
    return Exchange(
        info=info,
        sid=reply.sid,
        request=request,
        reply=msgspec.structs.replace(reply, frames=list(chunk.infos)),
        arrays=sent,
        images=chunk.images.copy(),
    )
