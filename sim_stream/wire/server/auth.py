"""Who may reach a server: addresses it binds, keys it allows, and the guard that checks them.

A server binds to this machine only, unless it has a guard: encryption and authentication by CURVE
on its sockets, which lets those in whose public key its allow-list holds. The list is read again
when it changes, by the thread that authenticates and by the I/O thread.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import threading
import time
from pathlib import Path
from typing import TypeAlias

import zmq

from sim_stream.errors import InvalidInput
from sim_stream.last_resort import InternalErrors
from sim_stream.plain_file import read_plain
from sim_stream.wire.endpoints import port_of
from sim_stream.wire.keys import (
    FILE_BYTES,
    PUBLIC_SUFFIX,
    KeyPair,
    read_pair,
    read_publics,
    require_curve,
)
from sim_stream.wire.server import ipc_path
from sim_stream.wire.server.doorkeeper import Doorkeeper, guard_door
from sim_stream.wire.server.rates import RateLimit

log = logging.getLogger(__name__)

# How long a key that was taken off the list may go on (a request does not look at the disk).
RECHECK_S = 1.0

# Errors of this process or machine, not of a file: no descriptors, no memory, a disk that stutters.
PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EINTR})

# Name, inode, time and size of every file: another one when a key comes, changes or goes.
_Stamp: TypeAlias = tuple[tuple[str, int, int, int], ...]


class AllowList:
    """All ``*.pub`` of a folder, or every public key in a file (``cat *.pub > allowed``).

    In a folder, what cannot be opened or is no regular file (a FIFO, say, which would wait for
    ever) allows nobody, and the log names it. Raises InvalidInput for a path that is not there or
    holds something else. Later, a file that holds something else allows nobody, too.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        if not path.exists():
            raise InvalidInput("allow", path, f"a folder of *{PUBLIC_SUFFIX} files, or a file")
        self._stamp = self._look()
        self._keys = self._read_first()
        self._looked_s = time.monotonic()
        if not self._keys:
            log.warning("%s allows nobody yet: no public key in it", path)

    def __len__(self) -> int:
        return len(self._keys)

    def holds(self, key: str, *, at_once: bool = False) -> bool:
        """``at_once``: by what is on the disk now, not up to ``RECHECK_S`` ago."""
        if at_once or time.monotonic() - self._looked_s > RECHECK_S:
            with self._lock:
                self._refresh()
        return key in self._keys

    def _refresh(self) -> None:
        self._looked_s = time.monotonic()
        try:
            stamp = self._look()
            if stamp == self._stamp:
                return
            keys = self._read()
        except OSError as error:  # no file can be opened any more, say: not the list's doing
            log.error("%s: as it was, for it cannot be read now: %s", self.path, error)
            return
        self._stamp, self._keys = stamp, keys
        log.info("%s: read again, %d keys", self.path, len(keys))

    def _read_first(self) -> frozenset[str]:
        """A mistake in a key is the owner's, who is there at the start. Raises InvalidInput."""
        keys: set[str] = set()
        for file in self._files():
            try:
                keys.update(read_publics("allow", file))
            except InvalidInput as error:
                if file == self.path or _is_readable(file):
                    raise
                log.error("not allowed: %s", error)
        return frozenset(keys)

    def _read(self) -> frozenset[str]:
        """Raises OSError where the process, not the list, is the reason."""
        keys: set[str] = set()
        for file in self._files():
            try:
                keys.update(read_publics("allow", file))
            except InvalidInput as error:
                cause = error.__cause__
                if isinstance(cause, OSError) and cause.errno in PASSING:
                    raise cause from error
                log.error("not allowed: %s", error)
        return frozenset(keys)

    def _files(self) -> list[Path]:
        return sorted(self.path.glob(f"*{PUBLIC_SUFFIX}")) if self.path.is_dir() else [self.path]

    def _look(self) -> _Stamp:
        stamps = []
        for file in self._files():
            try:
                stat = file.stat()
            except OSError:  # gone between the listing and here, or the whole list is
                continue
            stamps.append((str(file), stat.st_ino, stat.st_mtime_ns, stat.st_size))
        return tuple(stamps)


def _is_readable(file: Path) -> bool:
    """Whether it is a file of a list's size that can be read, so that its content is the matter."""
    try:
        read_plain("allow", file, limit=FILE_BYTES)
    except (OSError, InvalidInput):
        return False
    return True


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


# A peer that has not proved who it is by then is cut off; libzmq's own patience is 30 s.
HANDSHAKE_MS = 10_000
REFUSALS_LOGGED_PER_S = 1.0


class Guard:
    """A server's key and its allow-list, and, while it is started, who may connect."""

    def __init__(self, pair: KeyPair, allow_list: AllowList) -> None:
        self._pair = pair
        self._allow_list = allow_list
        self._door: Doorkeeper | None = None
        self._logged = RateLimit(REFUSALS_LOGGED_PER_S)

    @classmethod
    def load(cls, key: Path | None, allow: Path | None) -> Guard | None:
        """From a secret key file and an allow-list; None without both. Raises InvalidInput."""
        if key is None and allow is None:
            return None
        if key is None:
            raise InvalidInput("key", "none", "the server's secret key file, beside an allow-list")
        if allow is None:
            raise InvalidInput("allow", "none", "a folder or file of clients' public keys")
        require_curve()
        return cls(read_pair("key", key), AllowList(allow))

    @property
    def allowed(self) -> int:
        """How many keys are on the list."""
        return len(self._allow_list)

    def start(
        self, context: zmq.Context[zmq.Socket[bytes]], errors: InternalErrors | None = None
    ) -> None:
        """Before a socket of that context is bound. Raises InvalidInput while it is started."""
        if self._door is not None:
            raise InvalidInput(
                "guard", "one that guards a server", "one of its own for each server"
            )
        self._door = Doorkeeper(context, self.admits, errors)
        self._door.start()

    def stop(self) -> None:
        """Idempotent; before the context ends. Nobody gets in any more."""
        if self._door is not None:
            self._door.stop()
            self._door = None

    def protect(self, socket: zmq.Socket[bytes]) -> None:
        """Before the socket is bound."""
        socket.curve_server = True
        socket.curve_secretkey = self._pair.secret.encode()
        socket.curve_publickey = self._pair.public.encode()
        guard_door(socket)
        socket.set(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)

    def admits(self, key: str) -> bool:
        """Whether a new connection with that key is let in."""
        allowed = self._allow_list.holds(key, at_once=True)
        if not allowed and not self._logged.wait_s(b"", time.monotonic_ns()):
            log.warning("refused a client with key %s: not in %s", key, self._allow_list.path)
        return allowed

    def still_allows(self, user: str) -> bool:
        """Whether that key is on the list, of which it may have been taken since it connected."""
        return self._allow_list.holds(user)


def user_of(frame: zmq.Frame) -> str:
    """The public key (Z85) that the sender of a frame proved to have; "" for none."""
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:  # libzmq's way to say that there is no such property
        return ""
