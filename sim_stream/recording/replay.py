"""``sim-stream replay``: opens a recorded session again, sends its actions, compares every frame.

A session's frames are a function of weights, prompt, inputs, options and seeds, so equality is by
the sha256 of the pixels. Deadlines are not sent again: what they cut short cannot come back. Where
the session had been forked with a seed it is forked again, and goes on as the fork.
Knows the wire's client and the recording, no models.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeAlias

from tqdm import tqdm

from sim_stream.errors import InvalidInput
from sim_stream.model_options import from_record
from sim_stream.plain_json import to_json
from sim_stream.recording.lines import Shown
from sim_stream.recording.load import Recording, load
from sim_stream.recording.pixels import sha256_of
from sim_stream.recording.run import Run, cut_short
from sim_stream.server_process import ServerProcess
from sim_stream.wire.client.blocking_client import RemoteChunk, RemoteSession, StreamClient
from sim_stream.wire.messages import HelloOk, Step

EQUAL, DIFFERENT = 0, 1
STEPS_IN_FLIGHT = 2

Compare: TypeAlias = Callable[[Shown, RemoteChunk | None], None]


@dataclass(frozen=True, kw_only=True)
class ReplayOptions:
    """``endpoint`` None: a server of our own, started as the recording says.

    ``model`` overrides what it says, by the fields of ``ModelOptions``. ``key`` and ``server_key``
    are ``StreamClient``'s.
    """

    recording: Path
    endpoint: str | None = None
    model: dict[str, Any]
    as_json: bool = False
    key: Path | None = None
    server_key: Path | None = None

    def __post_init__(self) -> None:
        if self.endpoint is not None and self.model:
            given = ", ".join(sorted(self.model))
            raise InvalidInput("endpoint", f"{self.endpoint} and {given}", "one of the two")
        if self.endpoint is None and (self.key or self.server_key):
            raise InvalidInput("key", self.key or self.server_key, "none without --connect")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A frame that did not come back, or one too many; the missing side is empty.

    ``index`` counts the frames that were compared, from 0.
    """

    index: int
    step: int
    frame_id: int
    recorded_sha256: str
    replayed_sha256: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """``frames`` were compared, ``equal`` of them equal; ``after_deadline``: the first recorded
    frame that a deadline may have cut short, from which on frames need not come back.

    ``intact_pixels``: how many of the recording's own frames ``video`` holds unchanged; None where
    nothing can be said, since it is lossy or there are no pictures.
    """

    recording: str
    model_id: str
    weights_sha256: str
    seeds: list[int]
    frames: int
    equal: int
    first_difference: Difference | None
    after_deadline: int | None
    video: str
    lossless: bool
    intact_pixels: int | None
    complete: bool
    end: str

    @property
    def same(self) -> bool:
        return self.frames == self.equal


def run(options: ReplayOptions) -> int:
    """Replays and prints; EQUAL or DIFFERENT. Raises SimStreamError."""
    recording = load(options.recording)
    if options.endpoint is not None:
        report = replay(recording, options.endpoint, key=options.key, server_key=options.server_key)
    else:
        model = replace(from_record(recording.header.options), **options.model)
        sessions = 2 if any(one.forks for one in recording.runs) else 1
        command = [*model.serve_options(), f"--max-sessions={sessions}"]
        with ServerProcess(command) as server, server.answering():
            report = replay(recording, server.endpoint)
    for line in describe(report):
        print(line)
    if options.as_json:
        print(to_json(asdict(report) | {"same": report.same}), flush=True)
    return EQUAL if report.same else DIFFERENT


def replay(
    recording: Recording,
    endpoint: str,
    *,
    key: Path | None = None,
    server_key: Path | None = None,
) -> Report:
    """Compares a server's frames with the recorded ones. Raises InvalidInput for another model."""
    differences: list[Difference] = []
    compared = 0
    total = sum(len(line.frames) for line in recording.shown)
    with (
        StreamClient(endpoint, key=key, server_key=server_key) as client,
        tqdm(total=total, unit="frame", file=sys.stderr, mininterval=0.25) as bar,
    ):
        require_model(recording, client.info)

        def compare(line: Shown, chunk: RemoteChunk | None) -> None:
            nonlocal compared
            differences.extend(differences_of(compared, line, chunk))
            compared += max(len(line.frames), 0 if chunk is None else len(chunk))
            bar.update(len(line.frames))

        for one in recording.runs:
            replay_run(client, one, compare)
    header, end = recording.header, recording.end
    return Report(
        recording=str(recording.path),
        model_id=header.info.spec.model_id,
        weights_sha256=header.info.spec.weights_sha256,
        seeds=[one.start.seed for one in recording.runs],
        frames=compared,
        equal=compared - len(differences),
        first_difference=differences[0] if differences else None,
        after_deadline=first_cut_short(recording),
        video=recording.video.name,
        lossless=header.lossless,
        intact_pixels=recording.intact_pixels(),
        complete=end is not None and end.complete,
        end="cut off in the middle" if end is None else end.reason,
    )


def replay_run(client: StreamClient, one: Run, compare: Compare) -> None:
    """One session from its start on; ``compare`` gets each line with what comes for it now."""
    start = one.start_values()
    with ExitStack() as stack:
        session = client.open(
            start.frames,
            seed=one.start.seed,
            inputs=start.inputs,
            prompt_inputs=start.prompt_inputs,
            options=one.options,
            lookahead=one.lookahead,
        )
        stack.enter_context(session)
        compare(one.shown[0], session.frame if one.shown[0].frames else None)
        session = _replay_steps(client, session, one, compare, stack)
        last = session.close()
        if one.closed:
            compare(one.shown[-1], last)


def _replay_steps(
    client: StreamClient, session: RemoteSession, one: Run, compare: Compare, stack: ExitStack
) -> RemoteSession:
    """The session that was gone on with: a fork, where there was one with a seed of its own."""
    depth = min(STEPS_IN_FLIGHT, client.info.limits.max_in_flight)
    lines = [line for line in one.shown if isinstance(line.request, Step)]
    waiting: deque[Shown] = deque()

    def receive(at_most: int) -> None:
        while len(waiting) > at_most:
            compare(waiting.popleft(), session.receive())

    for index, (line, step) in enumerate(zip(lines, one.steps(), strict=True)):
        if index in one.forks:
            receive(0)
            session = _fork(session, one.forks[index], stack)
        receive(depth - 1)
        session.send_step(step.inputs, sim_time_us=step.request.sim_time_us)
        waiting.append(line)
    receive(0)
    return _fork(session, one.forks[len(lines)], stack) if len(lines) in one.forks else session


def _fork(parent: RemoteSession, seed: int, stack: ExitStack) -> RemoteSession:
    """In its parent's place."""
    session = stack.enter_context(parent.fork(seed=seed))
    parent.close()
    return session


def require_model(recording: Recording, info: HelloOk) -> None:
    """Another model or other weights give other frames: refused, naming both sides."""
    recorded, served = recording.header.info.spec, info.spec
    ours = (recorded.model_id, recorded.weights_sha256)
    theirs = (served.model_id, served.weights_sha256)
    if ours != theirs:
        raise InvalidInput(
            "recording",
            f"{recording.path} of model {ours[0]}, weights {ours[1]}",
            f"a recording of what the server runs: model {theirs[0]}, weights {theirs[1]}",
        )


def differences_of(index: int, line: Shown, chunk: RemoteChunk | None) -> list[Difference]:
    """``index``: of the line's first frame."""
    recorded = [
        (info.step, info.frame_id, sha256)
        for info, sha256 in zip(line.frames, line.sha256, strict=True)
    ]
    frames = () if chunk is None else chunk.frames
    now = [(frame.step, frame.frame_id, sha256_of(frame.image)) for frame in frames]
    found = []
    for place, (before, after) in enumerate(zip_longest(recorded, now)):
        step, frame_id, _ = before or after
        if (before or ())[1:] == (after or ())[1:]:
            continue
        found.append(
            Difference(
                index=index + place,
                step=step,
                frame_id=frame_id,
                recorded_sha256=before[2] if before else "",
                replayed_sha256=after[2] if after else "",
            )
        )
    return found


def first_cut_short(recording: Recording) -> int | None:
    """The index of the first frame that a deadline may have cut short."""
    index = 0
    for line in recording.shown:
        if cut_short(line):
            return index
        index += len(line.frames)
    return None


def describe(report: Report) -> list[str]:
    """The report for a reader."""
    seeds = ", ".join(map(str, report.seeds))
    lines = [
        f"{report.recording}: {report.equal} of {report.frames} frames are equal "
        f"({report.model_id}, seed {seeds})"
    ]
    if report.first_difference is not None:
        first = report.first_difference
        lines.append(
            f"first difference: step {first.step}, frame {first.frame_id} (index {first.index}): "
            f"recorded {first.recorded_sha256[:16] or 'none'}, "
            f"now {first.replayed_sha256[:16] or 'none'}"
        )
    if report.after_deadline is not None:
        lines.append(
            f"index {report.after_deadline} was cut short by a deadline: frames from there on need "
            "not come back"
        )
    if report.intact_pixels is not None:
        lines.append(
            f"{report.video} holds {report.intact_pixels} of the recorded frames unchanged"
        )
    elif report.lossless:
        lines.append(f"{report.video} has no pictures: whether they are unchanged is not known")
    if not report.complete:
        reason = report.end if report.end.isprintable() else ascii(report.end)
        lines.append(f"the recording is not complete: {reason}")
    return lines
