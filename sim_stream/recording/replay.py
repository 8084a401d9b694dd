"""``sim-stream replay``: opens a recorded session again, sends its actions, compares every frame.

A session's frames are a function of weights, prompt, text, actions, sampling and seed, so equality
is by the sha256 of the pixels. Deadlines are not sent again: what they cut short cannot come back.
Knows the wire's client and the recording, no models.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sim_stream.config import DecodingConfig
from sim_stream.errors import InvalidInput
from sim_stream.model_options import from_record
from sim_stream.plain_json import to_json
from sim_stream.recording.lines import Header, Shown
from sim_stream.recording.load import Recording, Run, load
from sim_stream.recording.pixels import sha256_of
from sim_stream.server_process import ServerProcess
from sim_stream.wire.client.blocking_client import RemoteFrame, RemoteSession, StreamClient
from sim_stream.wire.messages import HelloOk, Step

EQUAL, DIFFERENT = 0, 1
STEPS_IN_AIR = 2


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
    """A frame that did not come back. ``index`` counts the recording's frames from 0."""

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
        with ServerProcess(model.serve_options()) as server, server.answering():
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
    total = len(recording.shown)
    with (
        StreamClient(endpoint, key=key, server_key=server_key) as client,
        tqdm(total=total, unit="frame", file=sys.stderr, mininterval=0.25) as bar,
    ):
        require_model(recording, client.info)

        def compare(line: Shown, frame: RemoteFrame) -> None:
            nonlocal compared
            if (found := difference(compared, line, frame)) is not None:
                differences.append(found)
            compared += 1
            bar.update()

        for one in recording.runs:
            replay_run(client, one, compare)
    header, end = recording.header, recording.end
    return Report(
        recording=str(recording.path),
        model_id=header.info.model_id,
        weights_sha256=header.info.weights_sha256,
        seeds=[one.start.seed for one in recording.runs],
        frames=compared,
        equal=compared - len(differences),
        first_difference=differences[0] if differences else None,
        after_deadline=first_cut_short(recording.shown),
        video=recording.video.name,
        lossless=header.lossless,
        intact_pixels=recording.intact_pixels(),
        complete=end is not None and end.complete,
        end="cut off in the middle" if end is None else end.reason,
    )


def replay_run(
    client: StreamClient,
    one: Run,
    compare: Callable[[Shown, RemoteFrame], None],
) -> None:
    """One session from its prompt on; ``compare`` gets each line with the frame it has now."""
    start, header = one.start, one.header
    actions = start.actions
    session = client.open(
        one.prompt(),
        seed=start.seed,
        actions=None if actions is None else [a.to_action() if a else None for a in actions],
        text=start.text,
        sampling=(start.sampling or header.info.sampling).to_config(),
        decoding=start.decoding.to_config() if start.decoding else default_decoding(header),
        lookahead=one.lookahead,
    )
    with session:
        compare(one.shown[0], session.frame)
        _replay_steps(client, session, one, compare)
        last = session.close()
        if one.closed:
            if last is None:
                raise InvalidInput("recording", "a last frame", "none: the server had none")
            compare(one.shown[-1], last)


def _replay_steps(
    client: StreamClient,
    session: RemoteSession,
    one: Run,
    compare: Callable[[Shown, RemoteFrame], None],
) -> None:
    steps = [(line, line.request) for line in one.shown if isinstance(line.request, Step)]
    depth = min(STEPS_IN_AIR, client.info.limits.max_in_flight)
    sent = 0
    for line, _ in steps:
        while sent < len(steps) and session.in_flight < depth:
            request = steps[sent][1]
            action = None if request.action is None else request.action.to_action()
            session.send_step(action, sim_time_us=request.sim_time_us)
            sent += 1
        compare(line, session.receive())


def require_model(recording: Recording, info: HelloOk) -> None:
    """Another model or other weights give other frames: refused, naming both sides."""
    recorded = recording.header.info
    ours = (recorded.model_id, recorded.weights_sha256)
    theirs = (info.model_id, info.weights_sha256)
    if ours != theirs:
        raise InvalidInput(
            "recording",
            f"{recording.path} of model {ours[0]}, weights {ours[1]}",
            f"a recording of what the server runs: model {theirs[0]}, weights {theirs[1]}",
        )


def difference(index: int, line: Shown, frame: RemoteFrame) -> Difference | None:
    replayed = sha256_of(frame.image)
    if (line.sha256, line.frame.frame_id) == (replayed, frame.frame_id):
        return None
    return Difference(
        index=index,
        step=line.frame.step,
        frame_id=line.frame.frame_id,
        recorded_sha256=line.sha256,
        replayed_sha256=replayed,
    )


def first_cut_short(shown: Sequence[Shown]) -> int | None:
    """The first approximated frame whose request had a deadline."""
    for index, line in enumerate(shown):
        request = line.request
        hurried = isinstance(request, Step) and request.deadline_ms is not None
        if hurried and line.frame.approximated:
            return index
    return None


def default_decoding(header: Header) -> DecodingConfig | None:
    """What a session without its own got, where the recorder knew it."""
    how = header.options.get("decoding")
    return DecodingConfig.parse(how) if isinstance(how, str) else None


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
            f"recorded {first.recorded_sha256[:16]}, now {first.replayed_sha256[:16]}"
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
