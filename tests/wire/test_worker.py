"""The bell between the engine's threads and the I/O thread."""

from __future__ import annotations

import zmq

from sim_stream.wire.server.worker import WAKE_ADDRESS, Wake


def test_ringing_when_nobody_listens_any_more_is_nothing() -> None:
    """The I/O thread may end between a result and its ring; the context must still end."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    listener = context.socket(zmq.PULL)
    listener.bind(WAKE_ADDRESS)
    with Wake(context) as wake:
        wake.ring()
        assert listener.poll(5_000)
        listener.close(linger=0)
        for _ in range(3):
            wake.ring()
    context.term()


def test_rings_beyond_what_the_queue_takes_are_left_out() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    listener = context.socket(zmq.PULL)
    listener.bind(WAKE_ADDRESS)
    with Wake(context) as wake:
        for _ in range(5_000):  # both queues together take 2,000
            wake.ring()
        heard = 0
        while listener.poll(100):
            listener.recv()
            heard += 1
    assert 0 < heard < 5_000
    listener.close(linger=0)
    context.term()
