"""Descriptors: how many this process may have, and a look at one that is another library's.

Knows no connections.
"""

from __future__ import annotations

import fcntl
import logging
import os
import resource
import socket
import stat
import struct
import termios
import threading

log = logging.getLogger(__name__)

# More than this many connections take memory, not descriptors, from everybody else.
MOST_CONNECTIONS = 4096
# What is kept back for files: of one session's recording, and of everything else.
PER_SESSION, FOR_ALL = 6, 32
_RECEIVED_AT = 128  # struct tcp_info: tcpi_bytes_received, 8 bytes
_AT_ONCE = struct.pack("ii", 1, 0)
_INFO_BYTES = _RECEIVED_AT + 8


def raise_limit() -> None:
    """Takes as many descriptors as the system lets this process have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:  # macOS offers more than it gives
        log.warning("descriptors: %d, the limit cannot be raised to %d: %s", soft, hard, error)
    else:
        log.info("descriptors: limit raised from %d to %d", soft, hard)


def connections_allowed(max_sessions: int) -> int:
    """How many connections leave descriptors for the sessions' recordings, from what is open now.

    A quarter is kept back at least, for those that come faster than others are cut off; where there
    are few, half of them.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = soft - len(os.listdir("/proc/self/fd"))
    kept = min(max(FOR_ALL + PER_SESSION * max_sessions, free // 4), free // 2)
    return max(1, min(MOST_CONNECTIONS, free - kept))


def inode_of(descriptor: int) -> int | None:
    """Which socket that is, whatever numbers are given out later; None: it is none."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_ino if stat.S_ISSOCK(status.st_mode) else None


class Probe:
    """One descriptor of our own, pointed at a socket for a look or a cut, then away again.

    The socket's owner may close it, and its number be given out anew, at any moment: so it is only
    touched through this one, once it is sure to be the socket meant. Takes no further descriptor,
    so it works when none is left. Any thread may use it.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._blank = os.dup(self._socket.fileno())
        self._lock = threading.Lock()

    def received(self, descriptor: int, inode: int) -> int | None:
        """Bytes that its owner has read from a TCP connection so far; None: it is gone, or none."""
        with self._lock:
            try:
                if not self._point_at(descriptor, inode):
                    return None
                info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
                waiting = fcntl.ioctl(self._socket, termios.FIONREAD, bytes(4))
            except OSError:
                return None
            finally:
                self._point_away()
        if len(info) < _INFO_BYTES:  # a kernel before 4.1
            return None
        (received,) = struct.unpack_from("=Q", info, _RECEIVED_AT)
        return int(received) - int.from_bytes(waiting, "little")

    def shut(self, descriptor: int, inode: int) -> None:
        """Ends the connection both ways, and at once; its owner then closes it."""
        with self._lock:
            try:
                if self._point_at(descriptor, inode):
                    # Or the peer would wait for room in a buffer that nobody reads any more.
                    self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
                    self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:  # it has just ended
                pass
            finally:
                self._point_away()

    def close(self) -> None:
        self._socket.close()
        os.close(self._blank)

    def _point_at(self, descriptor: int, inode: int) -> bool:
        """Whether it is that socket. Raises OSError."""
        ours = self._socket.fileno()
        os.dup2(descriptor, ours, inheritable=False)
        return inode_of(ours) == inode

    def _point_away(self) -> None:
        os.dup2(self._blank, self._socket.fileno(), inheritable=False)
