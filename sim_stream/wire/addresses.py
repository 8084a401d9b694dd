"""Which addresses a server may bind: this machine's own, as long as nothing is encrypted."""

from __future__ import annotations

import ipaddress

from sim_stream.errors import InvalidInput

ALLOWED = "tcp://127.0.0.1:PORT, tcp://[::1]:PORT or ipc://PATH (other hosts need CURVE, to come)"


def require_local(field: str, address: str) -> str:
    """The address, when only this machine can reach it. Raises InvalidInput."""
    transport, separator, rest = address.partition("://")
    if not separator or transport not in ("tcp", "ipc") or not rest:
        raise InvalidInput(field, address, ALLOWED)
    if transport == "ipc":
        return address
    host, _, port = rest.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise InvalidInput(field, address, f"{ALLOWED}; PORT 0..65535, 0 for any free one")
    if not _is_loopback(host.strip("[]")):
        raise InvalidInput(field, address, ALLOWED)
    return address


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name or an interface: may be reachable from outside
        return False
