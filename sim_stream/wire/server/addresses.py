"""Which addresses a server may bind: this machine's own, and any other one when it is guarded."""

from __future__ import annotations

import ipaddress

from sim_stream.errors import InvalidInput
from sim_stream.wire.endpoints import port_of
from sim_stream.wire.server import ipc_path

LOCAL = (
    "tcp://127.0.0.1:PORT, tcp://[::1]:PORT or ipc://PATH; others only with CURVE: a key and an "
    "allow-list (--key, --allow; `sim-stream keygen` makes keys)"
)
ANY = "tcp://HOST:PORT or ipc://PATH"


def require_bindable(field: str, address: str, *, guarded: bool) -> str:
    """The address; without a guard only one that nobody but this machine can reach.

    Raises InvalidInput.
    """
    allowed = ANY if guarded else LOCAL
    transport, separator, rest = address.partition("://")
    if not separator or transport not in ("tcp", "ipc") or not rest:
        raise InvalidInput(field, address, allowed)
    if transport == "ipc":
        ipc_path.require_path(field, address)
        return address
    host, _, port = rest.rpartition(":")
    if not host or port_of(port) is None:
        raise InvalidInput(field, address, f"{allowed}; PORT 0..65535, 0 for any free one")
    if not guarded and not is_loopback(host.strip("[]")):
        raise InvalidInput(field, address, allowed)
    return address


def require_free(address: str) -> None:
    """Refuses an ipc path that is taken before a model is loaded; binding looks again.

    Raises Unavailable.
    """
    if ipc_path.is_ours(address):
        ipc_path.require_free(address)


def is_loopback(host: str) -> bool:
    """Whether that name or address can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name or an interface: may be reachable from outside
        return False
