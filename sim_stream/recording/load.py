"""A recording back from its files: the runs to replay, up to where the writing was cut off.

Whoever wrote the files: what makes no sense is refused, nothing but the files beside the recording
is read, and no more than ``bounds`` allow. Knows no server and no model.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from sim_stream.errors import InvalidInput
from sim_stream.recording.bounds import frame_shape
from sim_stream.recording.chain import Link, chain
from sim_stream.recording.formats import file_of, has_frames, line_file, read_frames
from sim_stream.recording.lines import End, Header, Refused, Shown
from sim_stream.recording.pixels import sha256_of
from sim_stream.recording.run import Run, recorded_as, require_sound, unsound
from sim_stream.wire.messages import Open, Reset, Step


@dataclass(frozen=True, kw_only=True)
class Recording:
    """``cut``: the writing ended without a last line; ``end``: what it says where there is one.

    ``inherited``: how many of the lines shown a fork, or a resumed session, has from the recording
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
        return self.given or file_of(self.path, self.header.video, recorded_as(self.header))

    def intact_pixels(self) -> int | None:
        """How many of the recording's own frames are there as the very pixels that left.

        None: nothing can be said, since the pictures are lossy or are not there. Raises
        InvalidInput.
        """
        if not self.header.lossless or not has_frames(self.video):
            return None
        shape = frame_shape(self.header.info.spec.frame_shape)
        hashes = [one for line in self.shown[self.inherited :] for one in line.sha256]
        pairs = zip(hashes, read_frames(self.video, shape), strict=False)
        return sum(sha256_of(image) == recorded for recorded, image in pairs)


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
        require_sound(run)
    return recording if path == lines else replace(recording, given=path)


def _load(path: Path) -> Recording:
    """From where the session began, whatever recordings it went through."""
    runs: list[Run] = []
    links = chain(path)
    for link in links:
        if link.fork is not None:
            _go_on(link, runs)
        runs = runs[-1:]
        inherited = len(runs[0].shown) if runs else 0
        _require_appended(link)
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
    if isinstance(request, Open | Reset):
        lookahead = before.lookahead if before else link.header.info.spec.lookaheads[0]
        mode = before.mode if before else "lockstep"
        if isinstance(request, Open):
            lookahead = lookahead if request.lookahead is None else request.lookahead
            mode = request.mode
        before = Run(lookahead=lookahead, mode=mode)
        runs.append(before)
    if before is not None:
        before.shown.append(line)
        before.links.append(link)


def _go_on(fork: Link, runs: list[Run]) -> None:
    """Of the recording that it went on from there is what came before. Raises InvalidInput."""
    assert fork.fork is not None
    shown = runs[-1].shown if runs else []
    if not shown or shown[-1].committed_step != fork.fork.committed_step:
        raise InvalidInput(
            "recording",
            f"{fork.path.parent / fork.fork.parent} (cut off before the fork)",
            f"the parent's frames up to step {fork.fork.committed_step}",
        )
    if fork.fork.seed is not None:
        taken = sum(isinstance(line.request, Step) for line in shown)
        runs[-1].forks[taken] = fork.fork.seed


def _require_appended(link: Link) -> None:
    """Its arrays lie in the order of their lines, none twice. Raises InvalidInput."""
    told = [kept for line in link.lines if isinstance(line, Shown) for kept in line.arrays]
    for before, kept in pairwise(told):
        if kept.first <= before.first:
            raise unsound(link.path, f"{kept.name} at {kept.first}, after {before.first}")
