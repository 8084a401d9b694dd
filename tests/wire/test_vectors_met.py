"""What a running server and a client make of the vectors (tests/wire/vectors)."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from sim_stream.errors import ProtocolError
from sim_stream.wire.client.pending_replies import PendingReplies
from sim_stream.wire.server.server import StreamServer
from tests.wire.conftest import RawClient
from tests.wire.vectors import broken, refused, valid
from tests.wire.vectors.spec import SIZE, SPEC
from tests.wire.vectors.world import AnyWorld


def named(found):
    return [pytest.param(vector, id=vector.name) for vector in found]


@pytest.mark.parametrize("vector", named(broken.replies()))
def test_broken_reply_is_refused(vector):
    with pytest.raises(ProtocolError):
        PendingReplies().put(vector.parts, 0)


@pytest.fixture(scope="module")
def server():
    """What the refused requests are meant for, no session open."""
    with StreamServer(AnyWorld(SPEC), bind="tcp://127.0.0.1:0") as server:
        raw = RawClient(server.endpoint)
        yield raw
        raw.close()


def test_hello_is_answered_as_in_the_vectors(server):
    reply = server.ask({"t": "hello"})
    expected = valid.fields(valid.hello_ok(rid=server.rid))
    assert reply.pop("parts") == []
    plain = msgspec.msgpack.decode(msgspec.msgpack.encode(expected))
    assert reply | {"server_epoch": ""} == plain | {"server_epoch": ""}


@pytest.mark.parametrize("vector", named(refused.requests()))
def test_refused_request_gets_its_code(server, vector):
    reply = server.ask(vector.parts[0], *vector.parts[1:])
    assert (reply["t"], reply["code"]) == ("error", vector.code)


@pytest.mark.parametrize("vector", named(v for v in valid.requests() if v.message["t"] == "open"))
def test_open_of_the_vectors_starts_a_session(server, vector):
    reply = server.ask(vector.parts[0], *vector.parts[1:])
    assert reply["t"] == "opened", reply
    assert len(reply["frames"]) == len(reply["parts"])
    for part in reply["parts"]:
        assert np.frombuffer(part, np.uint8).size == SIZE**2 * 3
    server.ask({"t": "close", "sid": reply["sid"]})
