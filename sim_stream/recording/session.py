"""One session's recording: its sidecar, its video and its prompts.

Belongs to the writer's thread. Knows no queue and no other session but the parent of a fork.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Literal

from sim_stream.recording.pixels import (
    FORMATS,
    WRITE_ERRORS,
    Format,
    PixelWriter,
    sha256_of,
    write_prompt,
)
from sim_stream.recording.sidecar import (
    Forked,
    Header,
    Line,
    Prompt,
    Refused,
    Shown,
    SidecarWriter,
)
from sim_stream.wire.messages import Error, Fork, Resume
from sim_stream.wire.observe import Exchange, FrameReply

log = logging.getLogger(__name__)

Options = dict[str, str | int | None]


@dataclass(frozen=True, kw_only=True)
class Style:
    """What all recordings of one recorder share."""

    folder: Path
    by: Literal["server", "client"]
    form: Format = FORMATS["ffv1"]
    options: Options | None = None


def reason_of(error: BaseException) -> str:
    """The operating system's words for one of WRITE_ERRORS."""
    return getattr(error, "strerror", None) or type(error).__name__


@dataclass(frozen=True, kw_only=True)
class Before:
    """The recording that another one goes on from: a fork's parent, or the same session's."""

    name: str
    lines: int


class SessionRecording:
    """Begins with the exchange that opened, forked or resumed the session.

    Methods raise WRITE_ERRORS.
    """

    def __init__(self, style: Style, first: Exchange, before: Before | None) -> None:
        self._style = style
        self._rate = Fraction(first.info.fps_num, first.info.fps_den)
        self._prompts = 0
        now = datetime.now(UTC)
        part = "" if first.past is None else f"-{first.past.part + 1}"
        self.name = f"{now:%Y%m%dT%H%M%SZ}-{style.by}-{first.sid}{part}"
        video = style.folder / f"{self.name}{style.form.suffix}"
        self._sidecar = SidecarWriter(style.folder / f"{self.name}.jsonl")
        self._pixels: PixelWriter | None = None
        try:
            self._sidecar.write(self._header(first, now, video.name))
            if before is not None:
                self._write_before(first, before)
            self._pixels = PixelWriter(
                video, style.form, rate=self._rate, shape=first.info.frame_shape
            )
        except WRITE_ERRORS as error:
            self.end(reason_of(error), complete=False)
            raise

    @property
    def here(self) -> Before:
        """For a fork that goes on from what is written so far."""
        return Before(name=self._sidecar.path.name, lines=self._sidecar.lines)

    def add(self, exchange: Exchange) -> None:
        """Pixels first, so that a line never promises what is not there."""
        request, reply = exchange.request, exchange.reply
        if isinstance(reply, Error):
            line: Line = Refused(request=request, code=reply.code.value, message=reply.message)
        elif isinstance(request, Fork | Resume) or reply.frame is None or exchange.image is None:
            return  # a close without a last frame, or what this recording began with
        else:
            line = self._shown(exchange, reply)
        self._sidecar.write(line)  # type: ignore[arg-type]  # one of AnyLine

    def end(self, reason: str, *, complete: bool) -> None:
        """Finishes both files; the mark is written even where the video cannot be."""
        try:
            if self._pixels is not None:
                self._pixels.close()
        except WRITE_ERRORS as error:
            log.warning("%s: the video's end is missing: %s", self.name, error)
        try:
            self._sidecar.end(reason, complete=complete)
        finally:
            self._sidecar.close()

    def _header(self, first: Exchange, now: datetime, video: str) -> Header:
        return Header(
            by=self._style.by,
            sid=first.sid,
            created=now.isoformat(timespec="milliseconds"),
            created_ns=time.monotonic_ns(),
            video=video,
            lossless=self._style.form.lossless,
            info=first.info,
            options=self._style.options or {},
        )

    def _write_before(self, first: Exchange, before: Before) -> None:
        self._sidecar.write(
            Forked(
                parent=before.name,
                parent_lines=before.lines,
                committed_step=first.reply.committed_step,
                resumed=isinstance(first.request, Resume),
            )
        )

    def _shown(self, exchange: Exchange, reply: FrameReply) -> Shown:
        request, image, info = exchange.request, exchange.image, reply.frame
        assert image is not None and info is not None
        assert not isinstance(request, Fork | Resume)
        assert self._pixels is not None
        prompt = None
        if exchange.frames is not None:
            path = self._style.folder / f"{self.name}.prompt-{self._prompts}.mkv"
            hashes = write_prompt(path, exchange.frames, rate=self._rate)
            prompt = Prompt(file=path.name, sha256=hashes)
            self._prompts += 1
        return Shown(
            request=request,
            committed_step=reply.committed_step,
            frame=info,
            sha256=sha256_of(image),
            index=self._pixels.write(image),
            prompt=prompt,
        )
