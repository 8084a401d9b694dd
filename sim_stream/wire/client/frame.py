"""The frames that came with a reply, for the caller and for whoever watches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from sim_stream.errors import ProtocolError
from sim_stream.spec import StreamSpec
from sim_stream.stream_model import APPROXIMATED, INFLATED
from sim_stream.wire.client.pending_replies import Received
from sim_stream.wire.framing import Arrays
from sim_stream.wire.messages import Closed, FrameInfo, FrameMessage, HelloOk, Opened
from sim_stream.wire.observe import Exchange, FrameReply, SessionRequest


@dataclass(frozen=True, eq=False)
class RemoteFrame:
    """A predicted frame: ``image`` is uint8 [H, W, 3], RGB, the caller's own.

    ``info``: what is known of it (``messages.FrameInfo``), which is all readable here: ``step`` is
    the request it answers, ``frame_id`` the frame it shows, ``lag_frames`` how many frames later
    than predicted it left. ``final`` is False when it will come again, revised. ``dropped``: steps
    of a realtime session, so far, that were superseded by newer ones. ``timings_ns``: durations per
    stage, plus ``round_trip`` as this client saw it. ``stamps_ns``: ``client_*`` by this machine's
    monotonic clock, all others by the server's. ``queue_depth``: other steps of the session that
    were in flight when it was sent. ``committed_step``: the last step that its session has taken.
    """

    image: npt.NDArray[np.uint8]
    info: FrameInfo
    committed_step: int

    @property
    def step(self) -> int:
        return self.info.step

    @property
    def frame_id(self) -> int:
        return self.info.frame_id

    @property
    def lag_frames(self) -> int:
        return self.info.lag_frames

    @property
    def final(self) -> bool:
        return self.info.final

    @property
    def marks(self) -> frozenset[str]:
        return frozenset(self.info.marks)

    @property
    def approximated(self) -> bool:
        """Whether it may differ from what exact decoding gives."""
        return APPROXIMATED in self.info.marks

    @property
    def inflated(self) -> bool:
        """Whether a video decoder made it that was never trained in time."""
        return INFLATED in self.info.marks

    @property
    def stats(self) -> Mapping[str, list[float]]:
        """The model's counts for the step, such as ``accepted``: tokens that each pass added."""
        return self.info.stats

    @property
    def seed(self) -> int:
        return self.info.seed

    @property
    def dropped(self) -> int:
        return self.info.dropped

    @property
    def sim_time_us(self) -> int | None:
        return self.info.sim_time_us

    @property
    def queue_depth(self) -> int:
        return self.info.queue_depth

    @property
    def timings_ns(self) -> dict[str, int]:
        return self.info.timings_ns

    @property
    def stamps_ns(self) -> dict[str, int]:
        return self.info.stamps_ns


@dataclass(frozen=True, eq=False)
class RemoteChunk(RemoteFrame):
    """The frames that came with one reply; as a frame itself it is their last, the newest.

    ``images`` is uint8 [N, H, W, 3], ``frames`` are its frames in order: of most models one.
    """

    images: npt.NDArray[np.uint8]
    infos: tuple[FrameInfo, ...]

    def __len__(self) -> int:
        return len(self.infos)

    def __iter__(self) -> Iterator[RemoteFrame]:
        return iter(self.frames)

    @property
    def frames(self) -> tuple[RemoteFrame, ...]:
        return tuple(
            RemoteFrame(image, info, self.committed_step)
            for image, info in zip(self.images, self.infos, strict=True)
        )


def remote_chunk(received: Received, send_ns: int, spec: StreamSpec | None = None) -> RemoteChunk:
    """The frames in a reply, of the spec's shape where it is known. Raises ProtocolError when there
    are none."""
    message = received.message
    if not isinstance(message, Opened | FrameMessage | Closed) or not message.frames:
        raise ProtocolError("reply", type(message).__name__, "a message with frames")
    images, count = received.arrays.get("images"), len(message.frames)
    shape = None if spec is None else (count, *spec.frame_shape)
    if images is None or images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        given = "none" if images is None else f"{images.dtype.str} {list(images.shape)}"
        raise ProtocolError("reply.images", given, "|u1 [N, H, W, 3]")
    if not images.size or len(images) != count or shape not in (None, images.shape):
        allowed = f"{count} of at least one pixel" if shape is None else str(list(shape))
        raise ProtocolError("reply.images", list(images.shape), allowed)
    trip_ns = received.recv_ns - send_ns
    for info in message.frames:  # decoded for this reply alone, so they are ours to add to
        info.timings_ns["round_trip"] = trip_ns
        info.stamps_ns["client_send"] = send_ns
        info.stamps_ns["client_recv"] = received.recv_ns
    images = images.astype(np.uint8, copy=False)
    return RemoteChunk(
        images[-1], message.frames[-1], message.committed_step, images, tuple(message.frames)
    )


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
