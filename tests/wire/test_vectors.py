"""The committed bytes are what messages, codec and framing write and read (tests/wire/vectors)."""

from __future__ import annotations

import msgspec
import pytest

from sim_stream.errors import ProtocolError
from sim_stream.spec import AnyField
from sim_stream.wire import codec
from sim_stream.wire.framing import HEADER_BYTES, FramingLimits, check_sizes, pack, unpack
from sim_stream.wire.messages import ErrorCode, Reply, Request
from tests.wire.vectors import refused, spec, valid
from tests.wire.vectors.generate import JSON, MSGPACK, to_json, vectors

LIMITS = FramingLimits(message_bytes=HEADER_BYTES + 2**20)


def named(found):
    return [pytest.param(vector, id=vector.name) for vector in found]


def receive(decode, parts):
    """As the server and the client read a message."""
    check_sizes(parts, LIMITS)
    message = decode(parts[0])
    return message, unpack(message.arrays, parts[1:])


def check(vector, message, arrays):
    assert valid.fields(message) == vector.message
    assert [array.tobytes() for array in arrays.values()] == vector.parts[1:]
    if vector.canonical:
        assert [bytes(part) for part in pack(message, arrays)] == vector.parts


def test_committed_files_are_what_the_code_generates():
    assert JSON.read_text(encoding="utf-8") == to_json(vectors())
    assert MSGPACK.read_bytes() == msgspec.msgpack.encode(vectors())


def test_every_type_every_code_and_every_kind_of_field_has_a_vector():
    def tags(union):
        return {kind.__struct_config__.tag for kind in union.__args__}

    assert {vector.message["t"] for vector in valid.requests()} == tags(Request)
    assert {vector.message["t"] for vector in valid.replies()} == tags(Reply)
    assert {v.message.get("code") for v in valid.replies()} >= {code.value for code in ErrorCode}
    fields = (*spec.SPEC.session_inputs, *spec.SPEC.step_inputs, *spec.SPEC.options)
    assert {field.__struct_config__.tag for field in fields} == tags(AnyField)


@pytest.mark.parametrize("vector", named(valid.requests()))
def test_request_is_read_and_written(vector):
    check(vector, *receive(codec.decode_request, vector.parts))


@pytest.mark.parametrize("vector", named(valid.replies()))
def test_reply_is_read_and_written(vector):
    check(vector, *receive(codec.decode_reply, vector.parts))


@pytest.mark.parametrize("name", refused.MALFORMED)
def test_malformed_request_is_refused_unless_only_a_server_can_know(name):
    if name in ("no version", "arrays with a hello"):
        return
    with pytest.raises(ProtocolError):
        receive(codec.decode_request, refused.MALFORMED[name])


@pytest.mark.parametrize("name", refused.UNFIT)
def test_request_that_does_not_fit_the_model_is_well_formed(name):
    receive(codec.decode_request, refused.UNFIT[name])
