"""``sim-stream demo``: the main job. A server in its own process, a drive through it, an MP4.

A client like any other: two prompt frames go up, then one action every quarter of a second by the
clock, as a simulator would send them. Up to two steps are in flight, so that the server's world
model and video decoder work at the same time. Knows the wire's client, no models.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sim_stream import prompts
from sim_stream.config import Action, get_preset
from sim_stream.errors import InvalidInput
from sim_stream.model_options import ModelOptions, as_recorded
from sim_stream.outputs import try_file, try_folder
from sim_stream.plain_json import to_json
from sim_stream.prompts import Prompt
from sim_stream.recording.recorder import Recorder
from sim_stream.server_process import ServerProcess
from sim_stream.video import Mp4Writer, halve, mark_prompt, write_png
from sim_stream.video_writer import contact_sheet
from sim_stream.wire.client.blocking_client import RemoteFrame, RemoteSession, StreamClient

YAW_RATE_RADPS = 0.25
STEPS_IN_FLIGHT = 2
MAX_FRAMES = 1_000_000
SLOWEST_FPS = 0.001
SHEET_FRAMES = 38  # with the prompt's two: five rows of eight
# A step sent later than this part of its period counts as late.
LATE_TOLERANCE = 0.1
NOT_RECORDED = 1  # exit status: the drive is there, its recording is not or ends early


@dataclass(frozen=True, kw_only=True)
class DemoOptions(ModelOptions):
    """What ``demo`` takes. ``pace_fps`` 0 runs freely; ``sheet`` None: beside ``out``.

    ``record``: a folder for the client's recording, which ``sim-stream replay`` runs again.
    """

    clip: str = "day"
    video: Path | None = None
    start_s: float = 0.0
    frames: int = 48
    seed: int = 0
    out: Path = Path("demo.mp4")
    sheet: Path | None = None
    pace_fps: float = 4.0
    record: Path | None = None
    record_format: str = "ffv1"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames < 1:
            raise InvalidInput("frames", self.frames, "1 or more")
        if self.frames > MAX_FRAMES:
            raise InvalidInput("frames", self.frames, f"{MAX_FRAMES} at most")
        if not 0 <= self.seed < 2**64:
            raise InvalidInput("seed", self.seed, "0..2^64-1")
        if self.pace_fps and not SLOWEST_FPS <= self.pace_fps < math.inf:
            allowed = f"{SLOWEST_FPS} steps a second or more, or 0 to run freely"
            raise InvalidInput("pace", self.pace_fps, allowed)
        if not self.out.name:
            raise InvalidInput("out", repr(str(self.out)), "the name of a file")
        if self.out == self.sheet_path:
            raise InvalidInput("sheet", self.sheet_path, "another file than --out")

    @property
    def sheet_path(self) -> Path:
        return self.out.with_suffix(".png") if self.sheet is None else self.sheet


@dataclass
class Drive:
    """What came back, counted."""

    timings_ms: dict[str, list[float]] = field(default_factory=dict)
    frame_ids: set[int] = field(default_factory=set)
    approximated: int = 0
    inflated: int = 0
    late: int = 0
    elapsed_s: float = 0.0


def run(options: DemoOptions) -> int:
    """Writes the MP4 and the contact sheet, prints the summary; 0, or NOT_RECORDED.

    Raises SimStreamError.
    """
    for name, path in (("out", options.out), ("sheet", options.sheet_path)):
        try_file(name, path)
    if options.record is not None:
        try_folder("record", options.record)
    prompt = read_prompt(options)
    with (
        Mp4Writer(options.out, fps=get_preset(options.preset).fps) as writer,
        ServerProcess(options.serve_options()) as server,
    ):
        given = [mark_prompt(image) for image in prompt.frames_THWC]
        shown = [halve(image) for image in given]
        for image in given:
            writer.write(image)
        chosen = set(np.linspace(1, options.frames, min(SHEET_FRAMES, options.frames), dtype=int))

        def keep(frame: RemoteFrame) -> None:
            writer.write(frame.image)
            if frame.frame_id in chosen:
                shown.append(halve(frame.image))

        with server.answering():
            summary = _drive_server(server.endpoint, options, prompt, keep)
        write_png(options.sheet_path, contact_sheet(shown))
    print(
        f"{options.out}: the prompt's frames have a border; {options.sheet_path}: all at a glance"
    )
    print(to_json(summary), flush=True)
    if (reason := summary.get("recording_lost")) is not None:
        print(f"sim-stream demo: not all was recorded: {reason}", file=sys.stderr)
        return NOT_RECORDED
    return 0


def read_prompt(options: DemoOptions) -> Prompt:
    """Frames of ``--video``, or of a shipped clip with the actions that led to them."""
    size = get_preset(options.preset).vq.frame
    return prompts.read_prompt(options.video, size=size, start_s=options.start_s, clip=options.clip)


def action_script(n: int, speed0_mps: float) -> list[Action]:
    """``n`` actions: straight, a lane to the left, straight, a lane to the right, and brake to a
    stand; a fifth each."""
    rate = YAW_RATE_RADPS
    yaw_rates_radps = (0.0, 0.0, rate, -rate, 0.0, 0.0, -rate, rate, 0.0, 0.0)  # a tenth each
    tenths = [index * len(yaw_rates_radps) // n for index in range(n)]
    braking = sum(tenth >= 8 for tenth in tenths)
    script = []
    for index, tenth in enumerate(tenths):
        left = (n - 1 - index) / braking if tenth >= 8 else 1.0
        script.append(Action(speed_mps=speed0_mps * left, yaw_rate_radps=yaw_rates_radps[tenth]))
    return script


def _drive_server(
    endpoint: str, options: DemoOptions, prompt: Prompt, keep: Callable[[RemoteFrame], None]
) -> dict[str, object]:
    """One session from prompt to close; every predicted frame goes to ``keep``. The summary."""
    recorder: AbstractContextManager[Recorder | None] = nullcontext()
    if options.record is not None:
        recorder = Recorder(
            options.record,
            by="client",
            form=options.record_format,
            options=as_recorded(options),
        )
    with recorder as observer, StreamClient(endpoint, observer=observer) as client:
        takes_actions = bool(client.info.spec.step_inputs)
        script: list[Action | None] = [*action_script(options.frames, prompt.speed_mps)]
        with client.open(
            prompt.frames_THWC,
            seed=options.seed,
            prompt_inputs=prompt.actions if takes_actions else None,
            lookahead=options.lookahead,
        ) as session:
            drive = drive_session(
                session, script if takes_actions else [None] * len(script), options.pace_fps, keep
            )
        summary = summarise(drive, options) | {
            "prompt_psnr_db": session.prompt_psnr_db and round(session.prompt_psnr_db, 2),
            "prompt_is_foreign": session.prompt_is_foreign,
            "model_id": client.info.spec.model_id,
            "weights_sha256": client.info.spec.weights_sha256,
            "out": str(options.out),
            "sheet": str(options.sheet_path),
        }
    if observer is not None and session.sid in observer.lost:
        summary["recording_lost"] = observer.lost[session.sid]
    return summary


def drive_session(
    session: RemoteSession,
    script: Sequence[Action | None],
    pace_fps: float,
    keep: Callable[[RemoteFrame], None],
) -> Drive:
    """Sends the script at that pace (0: as fast as it goes), then closes for the last frame.

    A late step is sent at once and counted; none is skipped. ``keep`` gets frames 1, 2, ... once.
    """
    drive = Drive()
    period_s = 1.0 / pace_fps if pace_fps else 0.0
    start_s = time.monotonic()
    with tqdm(total=len(script), unit="frame", file=sys.stderr, mininterval=0.25) as bar:

        def take(frame: RemoteFrame) -> None:
            # Frame 0 is the prompt's last, shown again; it is no prediction.
            if frame.frame_id >= 1 and frame.final:
                keep(frame)
                drive.frame_ids.add(frame.frame_id)
                drive.approximated += frame.approximated
                drive.inflated += frame.inflated
                bar.update()
            for stage, duration_ns in frame.timings_ns.items():
                drive.timings_ms.setdefault(stage, []).append(duration_ns / 1e6)

        for index, action in enumerate(script):
            due_s = start_s + index * period_s
            _receive_until(due_s, session, take)
            if period_s and time.monotonic() - due_s > LATE_TOLERANCE * period_s:
                drive.late += 1
            session.send_step(action)
        while session.in_flight:
            take(session.receive())
        drive.elapsed_s = time.monotonic() - start_s
        last = session.close()
        if last is not None:
            take(last)
    return drive


def _receive_until(
    due_s: float, session: RemoteSession, take: Callable[[RemoteFrame], None]
) -> None:
    """Takes frames in as they come until it is time to send, and there is room in flight."""
    while session.in_flight >= STEPS_IN_FLIGHT or session.ready(due_s - time.monotonic()):
        take(session.receive())
    left_s = due_s - time.monotonic()
    if left_s > 0:
        time.sleep(left_s)


def summarise(drive: Drive, options: DemoOptions) -> dict[str, object]:
    """The figures of a drive. ``end_to_end``: from sending a step to having its reply here."""
    timings_ms = dict(drive.timings_ms)
    timings_ms["end_to_end"] = timings_ms.pop("round_trip")
    latency_ms = {}
    for stage, durations_ms in sorted(timings_ms.items()):
        p50, p95, p99 = np.percentile(durations_ms, (50, 95, 99))
        latency_ms[stage] = {"p50": round(p50, 2), "p95": round(p95, 2), "p99": round(p99, 2)}
    return {
        "frames": len(drive.frame_ids),
        "fps": round(options.frames / drive.elapsed_s, 3),
        "latency_ms": latency_ms,
        "dropped": options.frames - len(drive.frame_ids),
        "approximated": drive.approximated,
        "inflated": drive.inflated,
        "late": drive.late,
        "seed": options.seed,
        "preset": options.preset,
        "pace_fps": options.pace_fps,
    }
