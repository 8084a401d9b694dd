"""A recording back from its files: the runs to replay, up to where the writing was cut off.

Knows no server and no model; what it gives is checked against the prompts' hashes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np

from sim_stream.errors import InvalidInput
from sim_stream.recording.formats import line_file, read_frames, read_lines, read_prompts
from sim_stream.recording.lines import End, Forked, Header, Prompt, Refused, Shown
from sim_stream.recording.pixels import sha256_of
from sim_stream.video_writer import Image
from sim_stream.wire.messages import Close, Open, Reset

MAX_FORKS = 64  # of forks of forks; more is a circle


@dataclass(frozen=True, kw_only=True)
class Run:
    """From an open or a reset to the next: ``shown[0]`` is the frame that came with it.

    ``header``: of the recording that it began in, whatever it went on in.
    """

    header: Header
    folder: Path
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
        assert prompt is not None
        return read_prompt(beside(self.folder, prompt.file), prompt)


@dataclass(frozen=True, kw_only=True)
class Recording:
    """``cut``: the writing ended without a last line; ``end``: what it says where there is one.

    ``inherited``: how many of the frames a fork, or a resumed session, has from the recording
    before. ``lines``: of the sidecar, up to its last whole one but for the mark of its end.
    """

    path: Path
    header: Header
    runs: list[Run]
    cut: bool
    end: End | None = None
    inherited: int = 0
    lines: int = 0
    refused: list[Refused] = field(default_factory=list)

    @property
    def shown(self) -> list[Shown]:
        return [line for run in self.runs for line in run.shown]

    @property
    def video(self) -> Path:
        return beside(self.path.parent, self.header.video)

    def intact_pixels(self) -> int:
        """How many frames of a lossless video are the very pixels that left."""
        own = self.shown[self.inherited :]
        pairs = zip_longest(own, read_frames(self.video))
        return sum(
            line is not None and image is not None and sha256_of(image) == line.sha256
            for line, image in pairs
        )


def load(path: str | Path) -> Recording:
    """The recording that is in that file or beside that video. Raises InvalidInput.

    Raises Unavailable for an MCAP file without the extra.
    """
    recording = _load(line_file(Path(path)), None, forks=0)
    if not recording.runs:
        raise InvalidInput("recording", f"{path} (no frame)", "a recording with frames")
    return recording


def read_prompt(path: Path, prompt: Prompt) -> Image:
    """Frames of a prompt's file, checked. Raises InvalidInput."""
    frames = list(islice(read_prompts(path), prompt.first, prompt.first + len(prompt.sha256)))
    if [sha256_of(frame) for frame in frames] != prompt.sha256:
        raise InvalidInput(
            "recording",
            f"{path} (missing, or not the frames that were recorded)",
            f"{len(prompt.sha256)} frames with the hashes that were recorded",
        )
    return np.stack(frames)


def _load(path: Path, first_lines: int | None, *, forks: int) -> Recording:
    """Of a parent only the lines that its fork began after."""
    if forks > MAX_FORKS:
        raise InvalidInput("recording", f"{path} (a fork of itself)", f"{MAX_FORKS} forks at most")
    read = read_lines(path)
    header, lines = read.header, read.lines[:first_lines]
    runs: list[Run] = []
    refused: list[Refused] = []
    inherited = 0
    for line in lines:
        if isinstance(line, Forked):
            parent = _load(beside(path.parent, line.parent), line.parent_lines, forks=forks + 1)
            _require_whole(parent, line)
            runs = parent.runs[-1:]
            inherited = len(runs[0].shown)
        elif isinstance(line, Refused):
            refused.append(line)
        elif isinstance(line, Shown) and isinstance(line.request, Open | Reset):
            lookahead = runs[-1].lookahead if runs else header.info.lookahead
            if isinstance(line.request, Open) and line.request.lookahead is not None:
                lookahead = line.request.lookahead
            mode = runs[-1].mode if runs else "lockstep"
            if isinstance(line.request, Open):
                mode = line.request.mode
            run = Run(
                header=header, folder=path.parent, lookahead=lookahead, mode=mode, shown=[line]
            )
            runs.append(run)
        elif isinstance(line, Shown) and runs:
            runs[-1].shown.append(line)
    return Recording(
        path=path,
        header=header,
        runs=runs,
        cut=read.cut,
        end=lines[-1] if isinstance(lines[-1], End) else None,
        inherited=inherited,
        lines=sum(not isinstance(line, End) for line in lines),
        refused=refused,
    )


def _require_whole(parent: Recording, fork: Forked) -> None:
    shown = parent.runs[-1].shown if parent.runs else []
    if not shown or shown[-1].committed_step != fork.committed_step:
        raise InvalidInput(
            "recording",
            f"{parent.path} (cut off before the fork)",
            f"the parent's frames up to step {fork.committed_step}",
        )


def beside(folder: Path, name: str) -> Path:
    """A file that a line names lies beside the line's, wherever that came from."""
    if Path(name).name != name:
        raise InvalidInput("recording", f"a file named {name}", "names without a folder")
    return folder / name
