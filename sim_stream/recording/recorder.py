"""``Recorder``: watches the sessions of a server or a client and writes their recordings.

    with Recorder("recordings", by="client") as recorder:
        with StreamClient(endpoint, observer=recorder) as client: ...

Called with every exchange, it only puts it into a bounded backlog; a thread of its own writes.
Whatever happens to the files (a full disk, a disk too slow), or to the writer itself, ends the
recording concerned, with a line in the log and a mark in the recording; the session goes on.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import Counter, deque
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from sim_stream.errors import InvalidInput
from sim_stream.last_resort import InternalErrors, LastResort
from sim_stream.recording.formats import create_files
from sim_stream.recording.lock import FolderLock
from sim_stream.recording.pixels import WRITE_ERRORS
from sim_stream.recording.session import Before, Options, SessionRecording, Style, reason_of
from sim_stream.wire.messages import Close, Error, ErrorCode, Fork, Open, Resume, Step
from sim_stream.wire.observe import RESUME_STEPS, Exchange

log = logging.getLogger(__name__)

BACKLOG_BYTES = 128 * 1024 * 1024
LOST_KEPT = 1024  # of the sessions whose recordings ended early
LINE_BYTES = 4096  # what an exchange without pixels and arrays counts as
CLOSE_TIMEOUT_S = 30.0
# Measured: at the stream's own priority the writer held up a reply's delivery by 2 ms now and then.
LOWEST_PRIORITY = 19
# What one session's files need, and how long the writer waits for them.
DESCRIPTORS = 7
DESCRIPTORS_TIMEOUT_S, DESCRIPTORS_RETRY_S = 2.0, 0.005
TOO_SLOW = "the disk was too slow: the backlog was full"
RECORDER_CLOSED = "the recorder was closed before the session"


class Backlog:
    """Exchanges on their way to the writer: bounded by their bytes, and RESUME_STEPS a session."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._waiting: deque[Exchange] = deque()
        self._of_session: Counter[str] = Counter()
        self._overflown: set[str] = set()
        self._closed = False
        self._changed = threading.Condition()

    def put(self, exchange: Exchange) -> bool:
        """Never waits. Without room the session is marked; nothing more of it is taken."""
        size, sid = _bytes(exchange), exchange.sid
        with self._changed:
            if self._closed or sid in self._overflown:
                return False
            if self._bytes + size > self._max_bytes or self._of_session[sid] >= RESUME_STEPS:
                self._overflown.add(sid)
                self._changed.notify()
                return False
            self._bytes += size
            self._of_session[sid] += 1
            self._waiting.append(exchange)
            self._changed.notify()
            return True

    def take(self) -> Exchange | None:
        """The oldest; waits for one. None once closed and empty."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            if not self._waiting:
                return None
            exchange = self._waiting.popleft()
            self._bytes -= _bytes(exchange)
            self._of_session -= Counter({exchange.sid: 1})  # which forgets a session at 0
            return exchange

    def overflown(self) -> frozenset[str]:
        """The sids of which something is missing from here on; each is said once."""
        with self._changed:
            if not self._overflown:
                return frozenset()
            cut = frozenset(self._overflown) - {exchange.sid for exchange in self._waiting}
            self._overflown -= cut
            return cut

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()


class Recorder:
    """An ``Observer`` (``wire.observe``) and a context manager.

    ``form``: ``ffv1`` or ``mcap``, lossless, or ``mp4``, for looking; all replay. ``options``: how
    the server was started, for the header. A server has its folder to itself (``lock``). ``errors``
    counts what escapes from the writer. Raises InvalidInput when ``folder`` cannot be written to or
    is another server's, Unavailable for MCAP without the extra.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        by: Literal["server", "client"],
        form: str = "ffv1",
        options: Options | None = None,
        backlog_bytes: int = BACKLOG_BYTES,
        errors: InternalErrors | None = None,
    ) -> None:
        create = create_files(form)
        self._style = Style(folder=Path(folder), by=by, create=create, options=options)
        try:
            self._style.folder.mkdir(parents=True, exist_ok=True)
            probe = self._style.folder / ".writable"
            probe.touch()
            probe.unlink()
            self._lock = FolderLock(self._style.folder) if by == "server" else None
        except OSError as error:
            raise InvalidInput(
                "record", f"{folder} ({error.strerror})", "a folder to write to"
            ) from error
        self._backlog = Backlog(backlog_bytes)
        self._resort = LastResort("recorder", errors or InternalErrors())
        self._recordings: dict[str, SessionRecording] = {}
        self.lost: dict[str, str] = {}  # by session: why its recording ended before it did
        self._thread = threading.Thread(target=self._write, name="recorder", daemon=True)
        self._thread.start()

    def __call__(self, exchange: Exchange) -> None:
        if not self._backlog.put(exchange) and exchange.written is not None:
            exchange.written.set_result(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self, *, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Writes what waits, and ends the recordings of sessions still open. Idempotent."""
        self._backlog.close()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.error("recording: not all was written within %g s", timeout_s)
            for sid in [*self._recordings]:
                self._lose(sid, f"not all was written within {timeout_s:g} s")
        elif self._lock is not None:
            self._lock.release()

    def _lose(self, sid: str, reason: str) -> None:
        if len(self.lost) < LOST_KEPT:
            self.lost[sid] = reason

    # Writer thread.

    def _write(self) -> None:
        if sys.platform == "linux":  # elsewhere priorities are a process's, not a thread's
            with self._resort.around("the writer's priority"):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)
        while (exchange := self._backlog.take()) is not None:
            try:
                self._record(exchange)
            except Exception as error:
                self._resort.caught(error, f"the recording of session {exchange.sid}")
                with self._resort.around(f"the end of {exchange.sid}'s recording"):
                    self._fail(exchange.sid, f"the recorder failed: {type(error).__name__}")
            if exchange.written is not None and not exchange.written.done():
                exchange.written.set_result(exchange.sid in self._recordings)
            with self._resort.around("recordings that the disk was too slow for"):
                for sid in self._backlog.overflown():
                    self._fail(sid, TOO_SLOW)
        for sid in [*self._recordings]:
            with self._resort.around(f"the end of {sid}'s recording"):
                self._end(sid, RECORDER_CLOSED, complete=False)

    def _record(self, exchange: Exchange) -> None:
        sid = exchange.sid
        refused = isinstance(exchange.reply, Error)
        if not refused and not isinstance(exchange.request, Step | Close):
            _await_descriptors()
        try:
            if not refused and isinstance(exchange.request, Open | Fork | Resume):
                self._begin(exchange)
            if sid in self._recordings:
                self._recordings[sid].add(exchange)
        except WRITE_ERRORS as error:
            self._fail(sid, reason_of(error))
            return
        # The writer serves all sessions: what one of them brings must not end it.
        except Exception as error:
            self._resort.caught(error, "a recording", {"sid": sid})
            self._fail(sid, f"{type(error).__name__}: {error}")
            return
        if isinstance(exchange.request, Close):
            if not isinstance(exchange.reply, Error):
                self._end(sid, "closed", complete=True)
            elif exchange.reply.code is ErrorCode.INTERNAL:
                self._end(sid, exchange.reply.message, complete=False)

    def _begin(self, exchange: Exchange) -> None:
        request, before = exchange.request, None
        if isinstance(request, Open) and request.record is False:
            return
        if isinstance(request, Fork):
            if request.sid not in self._recordings:
                log.info("session %s is not recorded: its parent is not", exchange.sid)
                return
            before = self._recordings[request.sid].here
        elif exchange.past is not None:
            before = Before(name=exchange.past.source, lines=exchange.past.lines)
        self._recordings[exchange.sid] = SessionRecording(self._style, exchange, before)

    def _fail(self, sid: str, reason: str) -> None:
        log.error("recording of session %s ends here, the session goes on: %s", sid, reason)
        self._lose(sid, reason)
        self._end(sid, reason, complete=False)

    def _end(self, sid: str, reason: str, *, complete: bool) -> None:
        recording = self._recordings.pop(sid, None)
        if recording is None:
            return
        try:
            recording.end(reason, complete=complete)
        except WRITE_ERRORS as error:
            log.error("recording of session %s could not be finished: %s", sid, error)
            self._lose(sid, reason_of(error))


def _await_descriptors() -> None:
    """Until a recording's files can be opened: strangers who take all descriptors are cut off
    (``wire.server.connections``), a little later than they come. Gives up after a while."""
    give_up_s = time.monotonic() + DESCRIPTORS_TIMEOUT_S
    while not _has_descriptors() and time.monotonic() < give_up_s:
        time.sleep(DESCRIPTORS_RETRY_S)


def _has_descriptors() -> bool:
    taken: list[int] = []
    try:
        for _ in range(DESCRIPTORS):
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return False
    finally:
        for descriptor in taken:
            os.close(descriptor)
    return True


def _bytes(exchange: Exchange) -> int:
    shown = 0 if exchange.images is None else exchange.images.nbytes
    return LINE_BYTES + shown + sum(array.nbytes for array in exchange.arrays.values())
