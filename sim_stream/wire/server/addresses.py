"""Which addresses a server may bind: this machine's own, and any other one when it is guarded."""

from __future__ import annotations

import ipaddress

from sim_stream.errors import InvalidInput

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
        return address
    host, _, port = rest.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise InvalidInput(field, address, f"{allowed}; PORT 0..65535, 0 for any free one")
    if not guarded and not is_loopback(host.strip("[]")):
        raise InvalidInput(field, address, allowed)
    return address


def is_loopback(host: str) -> bool:
    """Whether that name or address can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name or an interface: may be reachable from outside
        return False
