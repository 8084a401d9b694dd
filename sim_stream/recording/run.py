"""One run of a recorded session, from an open or a reset to the next: its start and its steps.

What it gives is checked by the spec that was recorded with it, and by the hashes of its frames and
arrays; steps' arrays are read one step after the other. Knows no server and no model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from sim_stream.errors import InvalidInput
from sim_stream.recording.arrays import require_allowed, unpacked
from sim_stream.recording.bounds import LINES, Shape, frame_shape, require_prompt
from sim_stream.recording.chain import Link
from sim_stream.recording.formats import ReadArray, arrays_in, file_of, read_prompts
from sim_stream.recording.lines import Header, Prompt, Shown
from sim_stream.recording.pixels import sha256_of
from sim_stream.spec import ArrayField, StreamSpec, check_values, no_frames
from sim_stream.stream_model import APPROXIMATED
from sim_stream.video_writer import Image
from sim_stream.wire.framing import AnyArray
from sim_stream.wire.inputs import FRAMES, StartValues, read_start, read_step
from sim_stream.wire.messages import Close, Open, Reset, Step
from sim_stream.wire.observe import PastStep

U64_MAX = 2**64 - 1


@dataclass(frozen=True, kw_only=True)
class Run:
    """``shown[0]`` came with its open or reset; ``links``: which recording each line stands in.

    ``forks``: the seeds that it was forked with, each before the step of that index.
    """

    lookahead: int
    mode: str
    shown: list[Shown] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    forks: dict[int, int] = field(default_factory=dict)

    @property
    def header(self) -> Header:
        """Of the recording that it began in, whatever it went on in."""
        return self.links[0].header

    @property
    def path(self) -> Path:
        return self.links[0].path

    @property
    def start(self) -> Open | Reset:
        request = self.shown[0].request
        assert isinstance(request, Open | Reset)
        return request

    @property
    def closed(self) -> bool:
        """Whether the frames that the lookahead held were recorded, too."""
        return isinstance(self.shown[-1].request, Close)

    def prompt(self) -> Image:
        """The frames that went in, [T, H, W, 3]. Raises InvalidInput if they are not there."""
        prompt, spec = self.shown[0].prompt, self.header.info.spec
        if prompt is None:
            return no_frames(spec)
        path = file_of(self.path, prompt.file, recorded_as(self.header))
        return read_prompt(path, prompt, frame_shape(spec.frame_shape))

    @property
    def options(self) -> dict[str, float | str]:
        """All of them: what it did not choose is as its server chose then."""
        return {**self.header.info.spec.defaults, **self.start.options}

    def start_values(self) -> StartValues:
        """What it started from, all options named. Raises InvalidInput."""
        line, spec = self.shown[0], self.header.info.spec
        arrays: dict[str, AnyArray] = {} if line.prompt is None else {FRAMES: self.prompt()}
        arrays |= _arrays(line, self.links[0], {})
        try:
            return read_start(spec, replace(self.start, options=self.options), arrays)
        except InvalidInput as error:
            raise unsound(self.path, str(error)) from error

    def steps(self) -> Iterator[PastStep]:
        """In their order. Raises InvalidInput at the first that is not as it was recorded."""
        readers: dict[Path, ReadArray] = {}
        for line, link in zip(self.shown, self.links, strict=True):
            if not isinstance(request := line.request, Step):
                continue
            arrays = _arrays(line, link, readers)
            try:
                inputs = read_step(link.header.info.spec, request, arrays)
            except InvalidInput as error:
                raise unsound(link.path, str(error)) from error
            yield PastStep(request=request, inputs=inputs, arrays=arrays)


def _arrays(line: Shown, link: Link, readers: dict[Path, ReadArray]) -> dict[str, AnyArray]:
    """``readers``: of the files that were read before. Raises InvalidInput."""
    if not line.arrays:
        return {}
    path = file_of(link.path, link.header.arrays, recorded_as(link.header))
    read = readers.setdefault(path, arrays_in(path))
    try:
        return {kept.name: unpacked(kept, read(kept)) for kept in line.arrays}
    except InvalidInput as error:
        if error.field == "recording":
            raise
        raise unsound(path, str(error)) from error


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


def cut_short(line: Shown) -> bool:
    """Whether a deadline may have made its frames others than they would have been."""
    hurried = isinstance(line.request, Step) and line.request.deadline_ms is not None
    return hurried and any(APPROXIMATED in frame.marks for frame in line.frames)


def require_sound(run: Run) -> None:
    """It could have been recorded: a start, then steps in order, then perhaps the close; with
    values that the spec of each recording allows. Raises InvalidInput."""
    spec, prompt = run.header.info.spec, run.shown[0].prompt
    count = 0 if prompt is None else len(prompt.sha256)
    least, most = spec.prompt_frames
    if not least <= count <= most:
        raise unsound(run.path, f"{count} prompt frames; its model takes {least}..{most}")
    if prompt is not None and prompt.first >= LINES:
        raise unsound(run.path, "a prompt too far on")
    for seed in (run.start.seed, *run.forks.values()):
        if seed > U64_MAX:
            raise unsound(run.path, f"seed {seed}")
    if run.lookahead not in spec.lookaheads:
        raise unsound(run.path, f"lookahead {run.lookahead}")
    step = 0
    for line, link in zip(run.shown, run.links, strict=True):
        _require_line(line, link)
        if isinstance(line.request, Step) and line.request.step > step:
            step = line.request.step
        elif line is not run.shown[0] and not (run.closed and line is run.shown[-1]):
            raise unsound(link.path, f"after step {step} what cannot follow it")


def _require_line(line: Shown, link: Link) -> None:
    """Raises InvalidInput."""
    spec: StreamSpec = link.header.info.spec
    if len(line.frames) != len(line.sha256):
        raise unsound(link.path, f"{len(line.frames)} frames, {len(line.sha256)} hashes")
    if not line.frames and not isinstance(line.request, Open | Reset):
        raise unsound(link.path, "a step without frames")
    try:
        require_allowed(spec, line)
        if isinstance(line.request, Step):
            plain = [one for one in spec.step_inputs if not isinstance(one, ArrayField)]
            check_values("inputs", plain, line.request.inputs)
    except InvalidInput as error:
        raise unsound(link.path, str(error)) from error


def unsound(path: Path, what: str) -> InvalidInput:
    return InvalidInput("recording", f"{path} ({what})", "a recording of this program")
