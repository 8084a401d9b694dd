"""A recording back from its files: the runs to replay, up to where the writing was cut off.

Whoever wrote the files: what makes no sense is refused, nothing but the files beside the recording
is read, and no more than ``bounds`` allow. Knows no server and no model; what it gives is checked
against the prompts' hashes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from sim_stream.errors import InvalidInput
from sim_stream.recording.bounds import LINES, Shape, frame_shape, require_prompt
from sim_stream.recording.chain import Link, chain
from sim_stream.recording.formats import (
    has_frames,
    line_file,
    pictures,
    read_frames,
    read_prompts,
)
from sim_stream.recording.lines import End, Header, Prompt, Refused, Shown
from sim_stream.recording.pixels import sha256_of
from sim_stream.video_writer import Image
from sim_stream.wire.messages import Close, Open, Reset, Step

U64_MAX = 2**64 - 1


@dataclass(frozen=True, kw_only=True)
class Run:
    """From an open or a reset to the next: ``shown[0]`` is the frame that came with it.

    ``header`` and ``path``: of the recording that it began in, whatever it went on in.
    """

    header: Header
    path: Path
    lookahead: int
    mode: str
    shown: list[Shown]

    @property
    def start(self) -> Open | Reset:
        request = self.shown[0].request
        assert isinstance(request, Open | Reset)
        return request

    @property
    def closed(self) -> bool:
        """Whether the frame that the lookahead held was recorded, too."""
        return isinstance(self.shown[-1].request, Close)

    def prompt(self) -> Image:
        """The frames that went in, [T, H, W, 3]. Raises InvalidInput if they are not there."""
        prompt = self.shown[0].prompt
        assert prompt is not None, "a run without one is refused when it is loaded"
        shape = frame_shape(self.header.info.frame_shape)
        path = pictures(self.path, prompt.file, recorded_as(self.header))
        if len(prompt.sha256) > self.header.info.context_max:
            raise _unsound(self, f"{len(prompt.sha256)} frames for a model that takes fewer")
        return read_prompt(path, prompt, shape)


@dataclass(frozen=True, kw_only=True)
class Recording:
    """``cut``: the writing ended without a last line; ``end``: what it says where there is one.

    ``inherited``: how many of the frames a fork, or a resumed session, has from the recording
    before. ``lines``: of the sidecar, up to its last whole one but for the mark of its end.
    ``given``: the video that was asked for, where that was not the lines' file.
    """

    path: Path
    header: Header
    runs: list[Run]
    cut: bool
    end: End | None = None
    inherited: int = 0
    lines: int = 0
    refused: list[Refused] = field(default_factory=list)
    given: Path | None = None

    @property
    def shown(self) -> list[Shown]:
        return [line for run in self.runs for line in run.shown]

    @property
    def video(self) -> Path:
        """The one that was asked for, or else the lines'. Raises InvalidInput."""
        return self.given or pictures(self.path, self.header.video, recorded_as(self.header))

    def intact_pixels(self) -> int | None:
        """How many of the recording's own frames are there as the very pixels that left.

        None: nothing can be said, since the pictures are lossy or are not there. Raises
        InvalidInput.
        """
        if not self.header.lossless or not has_frames(self.video):
            return None
        shape = frame_shape(self.header.info.frame_shape)
        pairs = zip(self.shown[self.inherited :], read_frames(self.video, shape), strict=False)
        return sum(sha256_of(image) == line.sha256 for line, image in pairs)


def load(path: str | Path) -> Recording:
    """The recording that is in that file or beside that video. Raises InvalidInput.

    Raises Unavailable for an MCAP file without the extra.
    """
    path = Path(path)
    lines = line_file(path)
    recording = _load(lines)
    if not recording.runs:
        raise InvalidInput("recording", f"{path} (no frame)", "a recording with frames")
    for run in recording.runs:
        _require_sound(run)
    return recording if path == lines else replace(recording, given=path)


def read_prompt(path: Path, prompt: Prompt, shape: Shape) -> Image:
    """Frames of a prompt's file, checked. Raises InvalidInput."""
    count = len(prompt.sha256)
    require_prompt(shape, count)
    frames = list(read_prompts(path, shape, prompt.first, count))
    if [sha256_of(frame) for frame in frames] != prompt.sha256:
        raise InvalidInput(
            "recording",
            f"{path} (missing, or not the frames that were recorded)",
            f"{count} frames with the hashes that were recorded",
        )
    return np.stack(frames)


def recorded_as(header: Header) -> str:
    """What its files were called without their suffixes."""
    return Path(header.video).stem


def _load(path: Path) -> Recording:
    """From where the session began, whatever recordings it went through."""
    runs: list[Run] = []
    links = chain(path)
    for link in links:
        if link.fork is not None:
            _require_whole(link, runs)
        runs = runs[-1:]
        inherited = len(runs[0].shown) if runs else 0
        for line in link.lines:
            if isinstance(line, Shown):
                _add(line, runs, link)
    last = links[-1]
    end = last.lines[-1]
    return Recording(
        path=path,
        header=last.header,
        runs=runs,
        cut=last.cut,
        end=end if isinstance(end, End) else None,
        inherited=inherited,
        lines=sum(not isinstance(line, End) for line in last.lines),
        refused=[line for line in last.lines if isinstance(line, Refused)],
    )


def _add(line: Shown, runs: list[Run], link: Link) -> None:
    before, request = runs[-1] if runs else None, line.request
    if not isinstance(request, Open | Reset):
        if before is not None:
            before.shown.append(line)
        return
    lookahead = before.lookahead if before else link.header.info.lookahead
    mode = before.mode if before else "lockstep"
    if isinstance(request, Open):
        lookahead = lookahead if request.lookahead is None else request.lookahead
        mode = request.mode
    runs.append(
        Run(header=link.header, path=link.path, lookahead=lookahead, mode=mode, shown=[line])
    )


def _require_whole(fork: Link, runs: list[Run]) -> None:
    """Of the recording that it went on from there is what came before. Raises InvalidInput."""
    assert fork.fork is not None
    shown = runs[-1].shown if runs else []
    if not shown or shown[-1].committed_step != fork.fork.committed_step:
        raise InvalidInput(
            "recording",
            f"{fork.path.parent / fork.fork.parent} (cut off before the fork)",
            f"the parent's frames up to step {fork.fork.committed_step}",
        )


def _require_sound(run: Run) -> None:
    """It could have been recorded: a prompt, then steps in order, then perhaps the close.

    Raises InvalidInput.
    """
    prompt, start = run.shown[0].prompt, run.start
    if prompt is None or prompt.first >= LINES:
        raise _unsound(run, "a start without a prompt" if prompt is None else "a prompt too far on")
    if start.seed > U64_MAX:
        raise _unsound(run, f"seed {start.seed}")
    if run.lookahead not in (0, 1):
        raise _unsound(run, f"lookahead {run.lookahead}")
    step = 0
    for line in run.shown[1:-1] if run.closed else run.shown[1:]:
        if not isinstance(line.request, Step) or line.request.step <= step:
            raise _unsound(run, f"after step {step} what cannot follow it")
        step = line.request.step


def _unsound(run: Run, what: str) -> InvalidInput:
    return InvalidInput("recording", f"{run.path} ({what})", "a recording of this program")
