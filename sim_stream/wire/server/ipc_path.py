"""Binds an ``ipc://`` path without taking it from anybody.

libzmq removes whatever lies at the path, be it another server's socket or somebody's notes. So the
socket is bound here and handed over: only a socket on which nobody listens any more, a killed
server's, is replaced, and what is ours goes with us. Two servers that start at once take turns by
a lock on the folder.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import zmq

from sim_stream.errors import InvalidInput, Unavailable
from sim_stream.plain_file import kind_of
from sim_stream.wire.endpoints import is_utf8

# sockaddr_un.sun_path without its closing zero.
PATH_BYTES = 107 if sys.platform == "linux" else 103
BACKLOG = 128
LOCK_TIMEOUT_S = 5.0
LOCK_RETRY_S = 0.01
_PREFIX = "ipc://"


def is_ours(address: str) -> bool:
    """Whether it is a path in the file system that the caller chose.

    Not ``ipc://*``, for which libzmq makes a folder of its own, and not Linux's abstract names
    (``ipc://@NAME``), which lie in no folder and cannot be taken.
    """
    return address.startswith(_PREFIX) and address != f"{_PREFIX}*" and os.name == "posix"


def require_path(field: str, address: str) -> None:
    """Raises InvalidInput for what can be no path of a socket."""
    name = address.removeprefix(_PREFIX)
    allowed = f"ipc://PATH of at most {PATH_BYTES} bytes, or ipc://@NAME on Linux"
    if len(os.fsencode(name)) > PATH_BYTES or "\0" in name or not is_utf8(name):
        raise InvalidInput(field, f"{address} ({len(os.fsencode(name))} bytes)", allowed)
    if name.startswith("@") and (sys.platform != "linux" or name == "@"):
        raise InvalidInput(field, address, allowed)


def require_free(address: str) -> None:
    """Raises Unavailable, saying what is there."""
    name = address.removeprefix(_PREFIX)
    if name.startswith("@"):
        if _answers(_sockaddr(name)):
            raise Unavailable(f"cannot bind {address}: a server listens there already")
        return
    path = Path(name)
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise Unavailable(
                f"cannot bind {address}: there is no folder {path.parent}; make it first"
            ) from None
        return
    except OSError as error:
        raise Unavailable(f"cannot bind {address}: {error.strerror}") from error
    if not stat.S_ISSOCK(mode):
        kind = kind_of(mode) or "a file"
        raise Unavailable(f"cannot bind {address}: {kind} is there, which is nobody's socket")
    if _answers(_sockaddr(name)):
        raise Unavailable(f"cannot bind {address}: a server listens there already")


class IpcPath:
    """A listening socket at a path, bound to ``zmq_socket``. Raises Unavailable."""

    def __init__(self, zmq_socket: zmq.Socket[bytes], address: str) -> None:
        name = address.removeprefix(_PREFIX)
        self._path = None if name.startswith("@") else Path(name).absolute()
        self._inode = -1
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)  # libzmq accepts when somebody waits, who may have left
            self._listen(listener, address)
            zmq_socket.set(zmq.USE_FD, listener.fileno())
            zmq_socket.bind(address)
        except (OSError, zmq.ZMQError) as error:
            listener.close()
            self.remove()
            raise Unavailable(f"cannot bind {address}: {error.strerror}") from error
        except Unavailable:
            listener.close()
            raise
        listener.detach()  # libzmq closes it

    def remove(self) -> None:
        """The file, if it is still this socket's; before it is closed. Idempotent."""
        if self._path is None or self._inode < 0:
            return
        try:
            if self._path.lstat().st_ino == self._inode:
                self._path.unlink()
        except OSError:  # gone already, or in a folder that is
            pass
        self._inode = -1

    def _listen(self, listener: socket.socket, address: str) -> None:
        """Raises OSError, Unavailable."""
        name = address.removeprefix(_PREFIX)
        if self._path is None:
            require_free(address)
            listener.bind(_sockaddr(name))
            listener.listen(BACKLOG)
            return
        require_free(address)  # names a folder that is not there
        with _alone(self._path.parent):
            require_free(address)
            self._path.unlink(missing_ok=True)
            listener.bind(name)
            listener.listen(BACKLOG)  # before another one asks whether somebody answers
            self._inode = self._path.lstat().st_ino


def _sockaddr(name: str) -> str | bytes:
    return b"\0" + os.fsencode(name[1:]) if name.startswith("@") else name


def _answers(where: str | bytes) -> bool:
    """Whether anybody listens there. A full queue is somebody's; a refused look, too."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(where) not in (errno.ECONNREFUSED, errno.ENOENT)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While nobody else who starts a server in that folder looks. Raises OSError."""
    import fcntl

    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        give_up_s = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up_s:
                    raise OSError(
                        errno.EBUSY, f"somebody keeps {folder} locked for {LOCK_TIMEOUT_S:g} s"
                    ) from None
                time.sleep(LOCK_RETRY_S)
        yield
    finally:
        os.close(file)
