"""A frame as viewers get it: its figures and a JPEG, made once, for as many as want it.

The encoder runs in a thread: some 2 ms of it must not hold up the event loop. Without a viewer
nothing is encoded. Knows no viewers and no sockets.
"""

from __future__ import annotations

import asyncio
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame

from sim_stream.config import Action
from sim_stream.view.messages import ActionTaken, FrameHeader, encode
from sim_stream.wire.client.frame import RemoteFrame
from sim_stream.wire.engine import Image

# libavcodec's scale, 2 is the best. Chroma in full: frames are small, and looked at enlarged.
QUALITY = "2"
PIXELS = "yuvj444p"
LENGTH_BYTES = 4


class Picture:
    """``image`` is uint8 [H, W, 3], never written again."""

    def __init__(self, header: FrameHeader, image: Image) -> None:
        self.header = header
        self.image = image
        self._packet: asyncio.Task[bytes] | None = None

    async def packet(self) -> bytes:
        """The binary message. A viewer that leaves while it waits does not disturb the others."""
        if self._packet is None:
            self._packet = asyncio.create_task(asyncio.to_thread(self._encode))
        return await asyncio.shield(self._packet)

    def _encode(self) -> bytes:
        header = encode(self.header)
        return len(header).to_bytes(LENGTH_BYTES, "big") + header + jpeg(self.image)


def jpeg(image: Image) -> bytes:
    """uint8 [H, W, 3], RGB, as a JPEG."""
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    codec: Any = av.CodecContext.create("mjpeg", "w")
    codec.height, codec.width = image.shape[:2]
    codec.pix_fmt = PIXELS
    codec.time_base = Fraction(1, 1)
    codec.options = {"qmin": QUALITY, "qmax": QUALITY}
    packets = [*codec.encode(frame.reformat(format=PIXELS)), *codec.encode()]
    return b"".join(bytes(packet) for packet in packets)


def header_of(sid: str, frame: RemoteFrame, action: Action | None, in_flight: int) -> FrameHeader:
    """The figures of a frame; ``action`` is the one its step was sent with, None: unknown."""
    taken = None
    if action is not None:
        taken = ActionTaken(speed_mps=action.speed_mps, yaw_rate_radps=action.yaw_rate_radps)
    return FrameHeader(
        sid=sid,
        step=frame.step,
        frame_id=frame.frame_id,
        committed_step=frame.committed_step,
        lag_frames=frame.lag_frames,
        final=frame.final,
        approximated=frame.approximated,
        inflated=frame.inflated,
        codes=sum(frame.accepted),
        passes=len(frame.accepted),
        queue_depth=frame.queue_depth,
        in_flight=in_flight,
        timings_ms={name: round(ns / 1e6, 3) for name, ns in frame.timings_ns.items()},
        action=taken,
    )
