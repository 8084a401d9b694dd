"""``RemoteFrame``: a predicted frame as it reaches the client, made from a reply.

Knows no sockets and no sessions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim_stream.errors import ProtocolError
from sim_stream.wire.client.mailbox import Received
from sim_stream.wire.messages import Closed, FrameMessage, Opened


@dataclass(frozen=True, kw_only=True, eq=False)
class RemoteFrame:
    """A predicted frame: ``image`` is uint8 [H, W, 3], RGB, the caller's own.

    ``step`` is the request it answers, ``frame_id`` the frame it shows; ``lag_frames`` their
    difference. ``approximated``: by a deadline or by diagonal decoding; ``accepted``: codes that
    each pass of the world model added. ``final`` is False when the frame will come again with its
    right neighbour known. ``inflated``: drawn by a video decoder never trained in time.
    ``dropped``: steps of a realtime session, so far, that gave way to newer ones.
    ``timings_ns``: durations per stage, plus ``round_trip`` as this client saw it. ``stamps_ns``:
    ``client_*`` by this machine's monotonic clock, all others by the server's. ``queue_depth``:
    other steps of the session that were in flight when it was sent.
    """

    image: npt.NDArray[np.uint8]
    step: int
    frame_id: int
    lag_frames: int
    final: bool
    approximated: bool
    inflated: bool
    accepted: tuple[int, ...]
    committed_step: int
    dropped: int
    sim_time_us: int | None
    queue_depth: int
    timings_ns: dict[str, int]
    stamps_ns: dict[str, int]


def remote_frame(
    received: Received, send_ns: int, shape: tuple[int, ...] | None = None
) -> RemoteFrame:
    """The frame in a reply, of that shape [H, W, 3] where it is known. Raises ProtocolError when
    there is none."""
    message = received.message
    if not isinstance(message, Opened | FrameMessage | Closed) or message.frame is None:
        raise ProtocolError("reply", type(message).__name__, "a message with a frame")
    image = received.arrays.get("image")
    if image is None or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        given = "none" if image is None else f"{image.dtype.str} {list(image.shape)}"
        raise ProtocolError("reply.image", given, "|u1 [H, W, 3]")
    if not image.size or shape not in (None, image.shape):
        allowed = "at least one pixel" if shape is None else str(list(shape))
        raise ProtocolError("reply.image", list(image.shape), allowed)
    info = message.frame
    return RemoteFrame(
        image=image.astype(np.uint8, copy=False),
        step=info.step,
        frame_id=info.frame_id,
        lag_frames=info.lag_frames,
        final=info.final,
        approximated=info.approximated,
        inflated=info.inflated,
        accepted=tuple(info.accepted),
        committed_step=message.committed_step,
        dropped=info.dropped,
        sim_time_us=info.sim_time_us,
        queue_depth=info.queue_depth,
        timings_ns=info.timings_ns | {"round_trip": received.recv_ns - send_ns},
        stamps_ns=info.stamps_ns | {"client_send": send_ns, "client_recv": received.recv_ns},
    )
