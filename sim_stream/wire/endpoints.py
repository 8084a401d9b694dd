"""Addresses as people write them: what a client may connect to, and the number of a port.

Knows no sockets; whether anybody listens there is for others to find out.
"""

from __future__ import annotations

from sim_stream.errors import InvalidInput

LARGEST_PORT = 2**16 - 1
ALLOWED = "tcp://HOST:PORT with a port of 1..65535, or ipc://PATH"


def port_of(text: str) -> int | None:
    """The number of a port, 0..65535; None for what is none, in as many digits as may come."""
    if not text.isascii() or not text.isdecimal() or len(text) > len(str(LARGEST_PORT)):
        return None
    port = int(text)
    return port if port <= LARGEST_PORT else None


def require_endpoint(field: str, endpoint: object) -> str:
    """The address of somebody to connect to. Raises InvalidInput."""
    if not isinstance(endpoint, str) or not is_utf8(endpoint):
        raise InvalidInput(field, endpoint, ALLOWED)
    transport, _, rest = endpoint.partition("://")
    host, _, port = rest.rpartition(":")
    if not (transport == "ipc" and rest) and not (transport == "tcp" and host and port_of(port)):
        raise InvalidInput(field, endpoint, ALLOWED)
    return endpoint


def is_utf8(text: str) -> bool:
    """Not a path of other bytes, which ZeroMQ cannot be told."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
