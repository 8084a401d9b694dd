"""Where a client may be used: in the process that made it, by one thread or event loop at a time.

libzmq's sockets do not survive a fork, and two threads in one of them at once break it. Both are
refused by name here, before a socket is touched. Knows no sockets.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from sim_stream.errors import InvalidInput, WrongOwner


class Owner:
    """The process that made a client, and whoever uses it just now."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.RLock()  # the same thread may come back: an observer, say
        self._user = ""
        self.busy = False

    @property
    def elsewhere(self) -> bool:
        """Whether this is another process, a fork of the one that made it."""
        return os.getpid() != self._pid

    def require_process(self) -> None:
        """Raises WrongOwner."""
        if self.elsewhere:
            raise WrongOwner(
                f"client: got a use in process {os.getpid()}; allowed: in process {self._pid}, "
                "which made it (a forked process makes a client of its own)"
            )

    @contextmanager
    def using(self) -> Iterator[bool]:
        """Yields whether the caller is the first, not one inside another call of the same thread.

        Raises WrongOwner.
        """
        self.require_process()
        if not self._lock.acquire(blocking=False):
            raise WrongOwner(
                f"client: got a call by thread {threading.current_thread().name} while "
                f"{self._user} is in one; allowed: one thread at a time (a client for each)"
            )
        outer, self.busy = self.busy, True
        self._user = f"thread {threading.current_thread().name}"
        try:
            yield not outer
        finally:
            self.busy = outer
            self._lock.release()

    @contextmanager
    def if_idle(self) -> Iterator[bool]:
        """Yields whether the socket may be used now, by a finalizer, which may run at any time in
        any thread. Does not wait and raises nothing."""
        if self.elsewhere or not self._lock.acquire(blocking=False):
            yield False
            return
        outer, self.busy = self.busy, True
        try:
            yield not outer
        finally:
            self.busy = outer
            self._lock.release()


class NotCopied:
    """A connection, or what stands on one, of which there can be no copy."""

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """What copy, deepcopy and pickle ask. Raises InvalidInput."""
        raise InvalidInput(
            "copy",
            f"a copy or pickle of {type(self).__name__}",
            "none: its connection and its sessions at the server would be shared. A session's "
            "fork() makes a second one that goes on from the same step; another process makes "
            "a client of its own",
        )
