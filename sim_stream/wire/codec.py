"""Messages to msgpack bytes and back, typed and bounded.

Every failure of decoding becomes a ProtocolError here; beyond this module nobody meets msgspec's
own errors. Does not know what a message means.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from sim_stream.errors import ProtocolError
from sim_stream.wire.messages import (
    REQUEST_TYPES,
    U64,
    VERSION,
    Message,
    Reply,
    Request,
    SessionId,
)


class Envelope(Struct, frozen=True, kw_only=True):
    """Read first: enough to refuse another version or type and to address the refusal."""

    t: Annotated[str, Meta(max_length=64)]
    v: int
    rid: U64 = 0
    sid: SessionId = ""


_ENVELOPE = msgspec.msgpack.Decoder(Envelope)
_REQUEST = msgspec.msgpack.Decoder(Request)
_REPLY: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)
_ENCODER = msgspec.msgpack.Encoder()

# What msgspec raises on hostile bytes: its own errors, bad UTF-8 (a ValueError), nesting too deep,
# and what Python's own numbers and memory say to them.
DECODE_ERRORS = (
    msgspec.MsgspecError,
    ValueError,
    ArithmeticError,
    RecursionError,
    MemoryError,
)


def encode(message: Message) -> bytes:
    return _ENCODER.encode(message)


def decode_envelope(header: bytes | memoryview) -> Envelope:
    """Version, type and request id of a header. Raises ProtocolError."""
    try:
        return _ENVELOPE.decode(header)
    except DECODE_ERRORS as error:
        raise ProtocolError("header", error, "a msgpack map with v, t and rid") from error


def decode_request(header: bytes | memoryview) -> Request:
    """A request, fully checked but for its arrays. Raises ProtocolError."""
    try:
        request: Request = _REQUEST.decode(header)
    except DECODE_ERRORS as error:
        raise ProtocolError("header", error, f"a request ({REQUEST_TYPES})") from error
    return request


def decode_reply(header: bytes | memoryview) -> Reply:
    """A reply, fully checked but for its arrays. Raises ProtocolError."""
    try:
        reply: Reply = _REPLY.decode(header)
    except DECODE_ERRORS as error:
        raise ProtocolError("header", error, f"a reply of protocol {VERSION}") from error
    if reply.v != VERSION:
        raise ProtocolError("v", reply.v, str(VERSION))
    return reply
