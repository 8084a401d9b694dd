"""Addresses that nobody could be reached at are refused by name, before a socket is made."""

from __future__ import annotations

import asyncio
import gc

import pytest
import zmq.asyncio

from sim_stream.errors import InvalidInput
from sim_stream.view import subscriber
from sim_stream.wire.client.async_client import AsyncStreamClient
from sim_stream.wire.client.async_connection import AsyncConnection
from sim_stream.wire.client.blocking_client import StreamClient
from sim_stream.wire.client.blocking_connection import Connection
from sim_stream.wire.endpoints import port_of, require_endpoint
from sim_stream.wire.server import ipc_path
from tests.wire.conftest import TIMEOUT_S

IMPOSSIBLE = [
    *(None, 5, b"tcp://127.0.0.1:5555", ["tcp://127.0.0.1:5555"], "", "x", "tcp://", "ipc://"),
    *("tcp://127.0.0.1", "tcp://:5555", "tcp://127.0.0.1:0", "tcp://127.0.0.1:99999"),
    *("tcp://127.0.0.1:-1", "tcp://127.0.0.1:\uff11", "tcp://127.0.0.1:" + "9" * 5000),
    *("inproc://x", "udp://127.0.0.1:5555", "http://127.0.0.1:5555", "tcp://127.0.0.1:5555\n"),
    *("tcp://\udcff:5555", "ipc:///tmp/\udcff"),
]


async def subscribe(endpoint):
    with zmq.asyncio.Context() as context:
        subscriber.connect(context, endpoint, None)


@pytest.mark.parametrize("endpoint", IMPOSSIBLE)
def test_what_can_be_no_address_is_refused_by_clients_and_viewers(endpoint):
    with pytest.raises(InvalidInput, match=r"endpoint: got .*allowed: tcp://HOST:PORT"):
        StreamClient(endpoint)
    with pytest.raises(InvalidInput, match=r"endpoint: got .*allowed: tcp://HOST:PORT"):
        AsyncStreamClient(endpoint)
    with pytest.raises(InvalidInput, match="subscribe: got"):
        asyncio.run(subscribe(endpoint))


@pytest.mark.parametrize(
    "endpoint",
    ["tcp://a.example:1", "tcp://[::1]:65535", "tcp://127.0.0.1:5555", "ipc://x", "ipc://@x"],
)
def test_what_can_be_one_is_not(endpoint):
    assert require_endpoint("endpoint", endpoint) == endpoint


def test_a_port_is_a_few_plain_digits():
    assert [port_of(text) for text in ("0", "5555", "65535")] == [0, 5555, 65535]
    for text in ("", "65536", "-1", "+1", " 1", "1_0", "\u00b2", "\uff11", "9" * 5000):
        assert port_of(text) is None


def test_a_path_that_zeromq_cannot_be_told_is_refused_by_servers():
    with pytest.raises(InvalidInput, match="bind"):
        ipc_path.require_path("bind", "ipc:///tmp/\udcff")


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_connection_that_could_not_begin_has_nothing_to_end():
    with pytest.raises(UnicodeEncodeError):
        Connection("tcp://\udcff:5555", timeout_s=TIMEOUT_S)

    async def begin():
        AsyncConnection("tcp://\udcff:5555", timeout_s=TIMEOUT_S)

    with pytest.raises(UnicodeEncodeError):
        asyncio.run(begin())
    gc.collect()
