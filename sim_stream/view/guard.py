"""Who may talk to the page's server: browsers on this machine, showing the page it served itself.

Any web site that a browser on this machine shows could otherwise connect: a WebSocket is not bound
by the same-origin policy, and a site's name may be made to resolve to 127.0.0.1 (DNS rebinding). So
the Host must be a name of this machine, and a WebSocket's Origin must be that very Host. A tunnel
(ssh -L) to another local port passes, since Host and Origin then change together.

Pure checks on header values.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from sim_stream.errors import InvalidInput
from sim_stream.wire.server.auth import is_loopback

HOSTS = "localhost, 127.0.0.1 or ::1: the page is for this machine; from elsewhere, use ssh -L"


def require_loopback(host: str) -> str:
    """The address to bind. Raises InvalidInput."""
    if not is_loopback(host):
        raise InvalidInput("host", host, HOSTS)
    return host


def names_this_machine(host: str | None) -> bool:
    """Whether a Host header, with or without a port, is a loopback name."""
    try:
        parts = urlsplit(f"//{host or ''}")
        return is_loopback(parts.hostname or "") and parts.port != 0
    except ValueError:  # no valid port, or a broken IPv6 address
        return False


def is_own_page(origin: str | None, host: str | None) -> bool:
    """Whether an Origin header is a page from this very host and port, over plain HTTP."""
    return names_this_machine(host) and origin == f"http://{host}"


# Scripts, styles and connections from here alone; frames are blobs. Nobody may frame the page.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
