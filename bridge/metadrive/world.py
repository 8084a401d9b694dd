"""MetaDriveWorld: the parent's side of a MetaDrive worker process.

MetaDrive pins an old numpy and protobuf, so it lives in `.venv-metadrive` and is spoken to over two
pipes. The child is always reaped: on close, on an error, and when this process ends (its stdin then
closes). This module does not import metadrive and knows nothing of rendering.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from bridge.metadrive.framing import PipeClosed, read_message, write_message
from bridge.scenarios import scenario_of
from bridge.worlds import Car, Control, EgoState, Observation, RoadView, SceneFailed
from sim_stream.errors import InvalidInput, SessionClosed, Unavailable

ENVIRONMENT = Path(__file__).resolve().parents[2] / ".venv-metadrive"
WORKER = Path(__file__).resolve().with_name("worker.py")
LIBRARIES = "libegl1 libgl1 libgl1-mesa-dri"
GRAPHICS_CLUES = ("No graphics pipe", "Could not open window", "libEGL", "libGL")
STDERR_TAIL_BYTES = 4000
# Measured, 3 to 15 m/s: the yaw rate to 2 %, the acceleration to 3 % of what this predicts; at
# throttle 0 the engine brakes with 0.3 m/s2.
CAR = Car(
    wheelbase_m=2.5,
    max_wheel_rad=math.radians(40.0),
    full_throttle_mps2=2.9,
    full_brake_mps2=17.0,
)


class WorkerFailed(Unavailable):
    """The worker died, did not answer in time, or cannot render at all."""


class MetaDriveWorld:
    """A front camera in MetaDrive at 4 frames per second of simulation time.

    size_px: side of the square frame. start_timeout_s covers the first reset, which loads models
    and compiles shaders; step_timeout_s covers every later answer.
    """

    fps = 4.0
    car = CAR

    def __init__(
        self,
        *,
        size_px: int = 512,
        environment: Path = ENVIRONMENT,
        start_timeout_s: float = 180.0,
        step_timeout_s: float = 60.0,
    ) -> None:
        if not 16 <= size_px <= 2048:
            raise InvalidInput("size_px", size_px, "16 to 2048")
        self._closed = False
        self._started = False
        self._start_timeout_s = start_timeout_s
        self._step_timeout_s = step_timeout_s
        self._road: RoadView | None = None
        python = environment / "bin" / "python"
        if not python.exists():
            raise Unavailable(
                f"MetaDrive's environment is missing ({environment.name}/bin/python): "
                "run `make metadrive` first"
            )
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._process = subprocess.Popen(
            [str(python), "-u", str(WORKER), "--size-px", str(size_px)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            # Ctrl-C is the parent's, which closes its workers itself. A group, not a session: Linux
            # schedules sessions against each other, so a new one would escape the parent's nice.
            process_group=0,
        )
        self._receive(start_timeout_s)

    def reset(self, seed: int) -> Observation:
        scenario = dataclasses.asdict(scenario_of(seed))
        timeout_s = self._step_timeout_s if self._started else self._start_timeout_s
        reply = self._ask({"op": "reset", "seed": seed, "scenario": scenario}, timeout_s)
        self._started = True
        return self._observation(reply)

    def step(self, control: Control) -> Observation:
        request = {"op": "step", "steer": control.steer, "throttle": control.throttle}
        return self._observation(self._ask(request, self._step_timeout_s))

    def road(self) -> RoadView:
        if self._road is None:
            raise InvalidInput("road", "no observation yet", "a call after reset")
        return self._road

    def describe(self, seed: int) -> dict[str, object]:
        return {"world": "metadrive", **dataclasses.asdict(scenario_of(seed))}

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._reap(grace_s=5.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        if self._closed:
            raise SessionClosed("this MetaDriveWorld is closed; make a new one")
        assert self._process.stdin is not None
        with contextlib.suppress(PipeClosed):  # reading finds the same end, with the reason
            write_message(self._process.stdin.fileno(), request)
        return self._receive(timeout_s)

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        try:
            reply = read_message(self._process.stdout.fileno(), timeout_s)
        except TimeoutError as error:
            raise self._failure(f"no answer within {timeout_s:g} s") from error
        except PipeClosed as error:
            raise self._failure("the worker died", grace_s=2.0) from error
        except BaseException:
            self._closed = True  # interrupted inside a message: the pipe is of no more use
            self._reap(grace_s=0.0)
            raise
        if not reply["ok"]:
            raise self._failure(f"the simulator failed:\n{reply['error']}")
        return reply

    def _failure(self, what: str, grace_s: float = 0.0) -> WorkerFailed | SceneFailed:
        self._closed = True
        tail = self._reap(grace_s)
        text = f"MetaDrive worker: {what} (exit code {self._process.returncode})"
        if tail:
            text += f"\nthe end of its stderr:\n{tail}"
        if any(clue in what + tail for clue in GRAPHICS_CLUES):
            text += f"\nsystem libraries may be missing: apt-get install {LIBRARIES}"
            return WorkerFailed(text)
        return SceneFailed(text) if self._started else WorkerFailed(text)

    def _reap(self, grace_s: float) -> str:
        """End the child, wait for it, and return the tail of what it wrote to stderr."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()  # the worker ends when its stdin does
        for end_it, wait_s in ((None, grace_s), (process.terminate, 2.0), (process.kill, None)):
            if end_it is not None:
                end_it()
            try:
                process.wait(timeout=wait_s)
                break
            except subprocess.TimeoutExpired:
                continue  # to the harder way
        process.stdout.close()
        size = self._stderr.seek(0, 2)
        self._stderr.seek(max(0, size - STDERR_TAIL_BYTES))
        tail = self._stderr.read().decode(errors="replace").strip()
        self._stderr.close()
        return tail

    def _observation(self, reply: dict[str, Any]) -> Observation:
        self._road = RoadView(
            path_m=np.asarray(reply["path"], dtype=np.float64).reshape(-1, 2),
            lane_width_m=reply["lane_width_m"],
            lanes_left=reply["lanes_left"],
            lanes_right=reply["lanes_right"],
            actors=np.asarray(reply["actors"], dtype=np.float64).reshape(-1, 3),
        )
        fields = (f.name for f in dataclasses.fields(EgoState))
        return Observation(
            frame=np.frombuffer(reply["frame"], np.uint8).reshape(reply["shape"]),
            sim_time_us=reply["sim_time_us"],
            ego=EgoState(**{name: reply[name] for name in fields}),
            done=bool(reply["end"]),
            end=reply["end"],
        )
