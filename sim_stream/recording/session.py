"""One session's recording: what its exchanges say, line by line, and their pixels.

Belongs to the writer's thread. Knows no queue, no file's layout, and no other session but the
parent of a fork.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import numpy as np

from sim_stream.recording.formats import Create
from sim_stream.recording.lines import RECORDED_AT, AnyLine, End, Forked, Header, Refused, Shown
from sim_stream.recording.pixels import WRITE_ERRORS, sha256_of
from sim_stream.spec import no_frames
from sim_stream.wire.inputs import FRAMES
from sim_stream.wire.messages import Close, Closed, Error, Fork, Resume
from sim_stream.wire.observe import Exchange, FrameReply

Options = dict[str, str | int | None]


@dataclass(frozen=True, kw_only=True)
class Style:
    """What all recordings of one recorder share."""

    folder: Path
    by: Literal["server", "client"]
    create: Create
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
        created, created_ns = _when(first, style.by)
        part = "" if first.past is None else f"-{first.past.part + 1}"
        name = f"{created:%Y%m%dT%H%M%SZ}-{style.by}-{first.sid}{part}"
        self._files = style.create(style.folder, name, first.info)
        try:
            self._files.write_line(self._header(first, created, created_ns))
            if before is not None:
                self._write_before(first, before)
        except WRITE_ERRORS as error:
            self.end(reason_of(error), complete=False)
            raise

    @property
    def here(self) -> Before:
        """For a fork that goes on from what is written so far."""
        return Before(name=self._files.path.name, lines=self._files.lines)

    def add(self, exchange: Exchange) -> None:
        """Pixels and arrays first, so that a line never promises what is not there."""
        request, reply = exchange.request, exchange.reply
        if isinstance(reply, Error):
            line: AnyLine = Refused(request=request, code=reply.code.value, message=reply.message)
        elif isinstance(request, Fork | Resume):
            return  # what this recording began with
        elif isinstance(request, Close) and not reply.frames:
            return
        else:
            line = self._shown(exchange, reply)
        self._files.write_line(line)

    def end(self, reason: str, *, complete: bool) -> None:
        self._files.end(End(reason=reason, complete=complete))

    def _header(self, first: Exchange, created: datetime, created_ns: int) -> Header:
        return Header(
            by=self._style.by,
            sid=first.sid,
            created=created.isoformat(timespec="microseconds"),
            created_ns=created_ns,
            video=self._files.video,
            arrays=self._files.arrays,
            lossless=self._files.lossless,
            info=first.info,
            options=self._style.options or {},
        )

    def _write_before(self, first: Exchange, before: Before) -> None:
        self._files.write_line(
            Forked(
                parent=before.name,
                parent_lines=before.lines,
                committed_step=first.reply.committed_step,
                seed=first.request.seed if isinstance(first.request, Fork) else None,
                resumed=isinstance(first.request, Resume),
            )
        )

    def _shown(self, exchange: Exchange, reply: FrameReply) -> Shown:
        request, images = exchange.request, exchange.images
        assert not isinstance(request, Fork | Resume)
        arrays = {name: array for name, array in exchange.arrays.items() if array.size}
        prompt = None
        if FRAMES in arrays:
            prompt = self._files.write_prompt(arrays.pop(FRAMES).astype(np.uint8, copy=False))
        images = no_frames(exchange.info.spec) if images is None else images
        return Shown(
            request=request,
            committed_step=reply.committed_step,
            frames=reply.frames,
            sha256=[sha256_of(image) for image in images],
            index=self._files.write_frames(images),
            arrays=self._files.write_arrays(arrays),
            prompt=prompt,
            prompt_psnr_db=None if isinstance(reply, Closed) else reply.prompt_psnr_db,
        )


def _when(first: Exchange, by: Literal["server", "client"]) -> tuple[datetime, int]:
    """When that reply was on its way, by both clocks: writing may begin long after."""
    now, now_ns = datetime.now(UTC), time.monotonic_ns()
    if isinstance(first.reply, Error) or not first.reply.frames:  # it has no stamps
        return now, now_ns
    stamp_ns = first.reply.frames[-1].stamps_ns[RECORDED_AT[by]]
    return now - timedelta(microseconds=(now_ns - stamp_ns) // 1000), stamp_ns
