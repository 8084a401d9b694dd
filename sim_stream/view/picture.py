"""What a step showed as viewers get it: figures and JPEGs, made once, for as many as want them.

The encoder runs in a thread: some 2 ms of a frame must not hold up the event loop. Without a viewer
nothing is encoded. Knows no viewers and no sockets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import av
import msgspec
import numpy as np
from av.video.frame import VideoFrame

from sim_stream.stream_model import Image
from sim_stream.view.fields import SimpleValue
from sim_stream.view.messages import FrameHeader, encode
from sim_stream.wire.client.frame import RemoteChunk

# libavcodec's scale, 2 is the best. Chroma in full: frames are small, and looked at enlarged.
QUALITY = "2"
PIXELS = "yuvj444p"
LENGTH_BYTES = 4


class Picture:
    """``images`` is uint8 [N, H, W, 3], never written again."""

    def __init__(self, header: FrameHeader, images: Image) -> None:
        self.header = header
        self.images = images
        self._packet: asyncio.Task[bytes] | None = None

    async def packet(self) -> bytes:
        """The binary message. A viewer that leaves while it waits does not disturb the others."""
        if self._packet is None:
            self._packet = asyncio.create_task(asyncio.to_thread(self._encode))
        return await asyncio.shield(self._packet)

    def _encode(self) -> bytes:
        jpegs = [jpeg(image) for image in self.images]
        sizes = [len(one) for one in jpegs]
        header = encode(msgspec.structs.replace(self.header, sizes=sizes))
        return b"".join([len(header).to_bytes(LENGTH_BYTES, "big"), header, *jpegs])


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


def header_of(
    sid: str, chunk: RemoteChunk, inputs: Mapping[str, SimpleValue] | None, in_flight: int
) -> FrameHeader:
    """The figures of a step; ``inputs`` are those it was sent with, None: unknown."""
    accepted = chunk.stats.get("accepted", [])
    return FrameHeader(
        sid=sid,
        step=chunk.step,
        frame_id=chunk.frame_id,
        frame_ids=[info.frame_id for info in chunk.infos],
        committed_step=chunk.committed_step,
        lag_frames=chunk.lag_frames,
        final=chunk.final,
        marks=sorted(chunk.marks),
        codes=sum(accepted),
        passes=len(accepted),
        queue_depth=chunk.queue_depth,
        in_flight=in_flight,
        timings_ms={name: round(ns / 1e6, 3) for name, ns in chunk.timings_ns.items()},
        inputs=None if inputs is None else dict(inputs),
    )
