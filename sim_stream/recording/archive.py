"""A folder of a server's recordings as what its sessions can be resumed from.

The key that signs resume tokens lies beside them, readable to its owner alone. Knows no sockets and
no models.
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from sim_stream.errors import InvalidInput, Unavailable
from sim_stream.plain_file import kind_of, read_plain
from sim_stream.recording.formats import LINE_SUFFIXES
from sim_stream.recording.lines import Header
from sim_stream.recording.load import Recording, load
from sim_stream.recording.names import require_inside
from sim_stream.recording.recorder import RECORDER_CLOSED
from sim_stream.recording.run import cut_short
from sim_stream.wire.observe import NotResumable, Past

KEY_FILE = ".resume-key"
KEY_BYTES = 32


class RecordedSessions:
    """An ``Archive`` (``wire.observe``). Raises InvalidInput where the key cannot be had."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self.key = _key(self._folder)
        except OSError as error:
            raise InvalidInput(
                "record", f"{folder} ({error.strerror})", "a folder to write to"
            ) from error

    def find(self, sid: str, *, model_id: str, weights_sha256: str) -> Past:
        """What the last recording of that session tells. Raises NotResumable."""
        try:
            part, path = self._last_part(sid)
            require_inside(path)
            recording = load(path)
            _require_open_end(recording)
            _require_same(recording.header, sid, model_id, weights_sha256)
            run = recording.runs[-1]
            start = run.start_values()
        except (InvalidInput, Unavailable) as error:
            raise NotResumable(f"resume: {error}") from error
        except OSError as error:
            raise NotResumable(f"resume: {error.strerror}") from error
        return Past(
            start=start,
            seed=run.start.seed,
            lookahead=run.lookahead,
            mode=run.mode,
            steps=run.steps(),
            sha256=[line.sha256 for line in run.shown],
            forks=run.forks,
            source=path.name,
            lines=recording.lines,
            part=part,
        )

    def _last_part(self, sid: str) -> tuple[int, Path]:
        """Parts are counted, since clocks may be set back. Raises NotResumable."""
        name = re.compile(rf"\w+-server-{re.escape(sid)}(?:-(\d+))?")
        found = [
            (int(match[1] or 0), path)
            for path in self._folder.iterdir()
            if path.suffix in LINE_SUFFIXES and (match := name.fullmatch(path.stem))
        ]
        if not found:
            raise NotResumable("resume: the session was not recorded")
        part, path = max(found)
        kind = kind_of(path.stat().st_mode) if path.exists() else "a link to nowhere"
        if kind:  # opening a FIFO would hold up the server
            raise NotResumable(f"resume: {path.name} is {kind}, no recording")
        return part, path


def _require_same(header: Header, sid: str, model_id: str, weights_sha256: str) -> None:
    """The session is the one that its file is named after, and this server could go on with it.

    Raises NotResumable.
    """
    if header.sid != sid:
        raise NotResumable(f"resume: the recording is one of session {header.sid}")
    ours = header.info.spec
    if (ours.model_id, ours.weights_sha256) != (model_id, weights_sha256):
        raise NotResumable(
            f"resume: the session ran on model {ours.model_id}, weights {ours.weights_sha256}; "
            f"this server runs {model_id}, weights {weights_sha256}"
        )


def _require_open_end(recording: Recording) -> None:
    """The session was neither closed nor did it go on beyond its recording. Raises NotResumable."""
    end = recording.end
    if end is not None and (end.complete or end.reason != RECORDER_CLOSED):
        reason = end.reason if end.reason.isprintable() else ascii(end.reason)
        ended = "the session was closed" if end.complete else f"its recording ended: {reason}"
        raise NotResumable(f"resume: {ended}")
    if recording.runs[-1].closed:
        raise NotResumable("resume: the session was closed")
    hurried = next(filter(cut_short, recording.runs[-1].shown), None)
    if hurried is not None:
        raise NotResumable(
            f"resume: a deadline cut step {hurried.frames[-1].step} short, so what followed cannot "
            "be made again"
        )


def _key(folder: Path) -> bytes:
    """The folder's key, made whole or not at all when it is first asked for.

    Raises OSError, and InvalidInput for one that others may know or have chosen.
    """
    path = folder / KEY_FILE
    if not os.path.lexists(path):
        _make_key(path)
    key, status = read_plain("record", path, limit=KEY_BYTES, follow=False)
    if len(key) != KEY_BYTES:
        raise InvalidInput(
            "record",
            f"{path} of {len(key)} bytes",
            f"the {KEY_BYTES} bytes that this program wrote; put them back, or remove the file: "
            "then there is a new key, and no session of before can be resumed",
        )
    mode = status.st_mode & 0o777
    if os.name == "posix" and mode & 0o077:
        raise InvalidInput(
            "record",
            f"{path} of mode {mode:04o}",
            f"0600: others could name any session; chmod 600 {path}, or, where they may have read "
            "it, remove it: then no session of before can be resumed",
        )
    return key


def _make_key(path: Path) -> None:
    partial = path.with_name(f"{KEY_FILE}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        os.link(partial, path)  # another server may have been quicker: its key stays
    except FileExistsError:
        pass
    finally:
        partial.unlink()
