"""A folder of a server's recordings as what its sessions can be resumed from.

The key that signs resume tokens lies beside them, readable to its owner alone. Knows no sockets and
no models.
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from msgspec import ValidationError, convert
from msgspec.structs import replace

from sim_stream.errors import InvalidInput, Unavailable
from sim_stream.plain_file import kind_of, read_plain
from sim_stream.recording.formats import LINE_SUFFIXES
from sim_stream.recording.lines import Header
from sim_stream.recording.load import Recording, Run, load
from sim_stream.recording.names import require_inside
from sim_stream.recording.recorder import RECORDER_CLOSED
from sim_stream.recording.replay import default_decoding, first_cut_short
from sim_stream.wire.messages import ErrorCode, Open, Reset, Step, WireDecoding
from sim_stream.wire.observe import Past
from sim_stream.wire.server.faults import Refusal

KEY_FILE = ".resume-key"
KEY_BYTES = 32


class RecordedSessions:
    """An ``Archive`` (``wire.archive``). Raises InvalidInput where the key cannot be had."""

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
        """What the last recording of that session tells. Raises Refusal."""
        try:
            part, path = self._last_part(sid)
            require_inside(path)
            recording = load(path)
            _require_open_end(recording)
            _require_same(recording.header, sid, model_id, weights_sha256)
            run = recording.runs[-1]
            frames, start = run.prompt(), _with_defaults(run)
        except (InvalidInput, Unavailable) as error:
            raise Refusal(ErrorCode.NO_SESSION, f"resume: {error}") from error
        except OSError as error:
            raise Refusal(ErrorCode.NO_SESSION, f"resume: {error.strerror}") from error
        return Past(
            start=start,
            frames=frames,
            lookahead=run.lookahead,
            mode=run.mode,
            steps=[line.request for line in run.shown if isinstance(line.request, Step)],
            sha256=[line.sha256 for line in run.shown],
            source=path.name,
            lines=recording.lines,
            part=part,
        )

    def _last_part(self, sid: str) -> tuple[int, Path]:
        """Parts are counted, since clocks may be set back. Raises Refusal."""
        name = re.compile(rf"\w+-server-{re.escape(sid)}(?:-(\d+))?")
        found = [
            (int(match[1] or 0), path)
            for path in self._folder.iterdir()
            if path.suffix in LINE_SUFFIXES and (match := name.fullmatch(path.stem))
        ]
        if not found:
            raise Refusal(ErrorCode.NO_SESSION, "resume: the session was not recorded")
        part, path = max(found)
        kind = kind_of(path.stat().st_mode) if path.exists() else "a link to nowhere"
        if kind:  # opening a FIFO would hold up the server
            raise Refusal(ErrorCode.NO_SESSION, f"resume: {path.name} is {kind}, no recording")
        return part, path


def _require_same(header: Header, sid: str, model_id: str, weights_sha256: str) -> None:
    """The session is the one that its file is named after, and this server could go on with it.

    Raises Refusal.
    """
    if header.sid != sid:
        raise Refusal(ErrorCode.NO_SESSION, f"resume: the recording is one of session {header.sid}")
    ours = header.info
    if (ours.model_id, ours.weights_sha256) != (model_id, weights_sha256):
        raise Refusal(
            ErrorCode.NO_SESSION,
            f"resume: the session ran on model {ours.model_id}, weights {ours.weights_sha256}; "
            f"this server runs {model_id}, weights {weights_sha256}",
        )


def _require_open_end(recording: Recording) -> None:
    """The session was neither closed nor did it go on beyond its recording. Raises Refusal."""
    end = recording.end
    if end is not None and (end.complete or end.reason != RECORDER_CLOSED):
        reason = end.reason if end.reason.isprintable() else ascii(end.reason)
        ended = "the session was closed" if end.complete else f"its recording ended: {reason}"
        raise Refusal(ErrorCode.NO_SESSION, f"resume: {ended}")
    if recording.runs[-1].closed:
        raise Refusal(ErrorCode.NO_SESSION, "resume: the session was closed")
    shown = recording.runs[-1].shown
    hurried = first_cut_short(shown)
    if hurried is not None:
        step = shown[hurried].frame.step
        raise Refusal(
            ErrorCode.NO_SESSION,
            f"resume: a deadline cut step {step} short, so what followed cannot be made again",
        )


def _with_defaults(run: Run) -> Open | Reset:
    """What the session's server chose then, whatever this one would. Raises InvalidInput."""
    start, decoding = run.start, run.start.decoding
    if decoding is None and (default := default_decoding(run.header)) is not None:
        try:
            decoding = convert(default, WireDecoding, from_attributes=True)
        except ValidationError as error:
            raise InvalidInput("decoding", start.decoding, str(error)) from error
    return replace(start, sampling=start.sampling or run.header.info.sampling, decoding=decoding)


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
