"""A client process: drives one session and says on stdout, a JSON line each, what happened.

    python -m tests.faults.driver --endpoint tcp://127.0.0.1:5555 --key 1 --steps 20

It is an ordinary user of ``StreamClient``: what is lost on the way it asks for again. Ends after
``--steps``, or with its session closed once stdin closes. Every action is a function of the step's
number, so that any two runs of one ``--key`` must bring equal frames.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sim_stream.config import Action
from sim_stream.errors import ConnectionLost, SimStreamError
from sim_stream.plain_json import to_json
from sim_stream.recording.pixels import sha256_of
from sim_stream.wire.client.blocking_client import RemoteFrame, RemoteSession, StreamClient
from tests.wire.toy import prompt_frames

CLOSE_S = 5.0


def action_of(step: int) -> Action:
    """What the driver does at that step."""
    return Action(speed_mps=5.0 + step % 7, yaw_rate_radps=0.05 * (step % 5 - 2))


def prompt_of(key: int, size: int) -> np.ndarray:
    return prompt_frames(size=size, key=key)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """``steps`` 0: until stdin closes. ``ahead``: steps in flight at a time."""

    endpoint: str
    key: int
    steps: int
    period_s: float
    timeout_s: float
    patience_s: float
    ahead: int
    secret_key: Path | None
    server_key: Path | None


def say(event: str, **fields: object) -> None:
    print(to_json({"t": event} | fields), flush=True)


def say_frame(event: str, frame: RemoteFrame, sent_s: float) -> None:
    say(
        event,
        step=frame.step,
        frame_id=frame.frame_id,
        committed_step=frame.committed_step,
        sha256=sha256_of(frame.image),
        latency_ms=(time.monotonic() - sent_s) * 1e3,
        stamps_ns=frame.stamps_ns,
    )


class Driver:
    """One session, step by step."""

    def __init__(self, plan: Plan, session: RemoteSession, stop: threading.Event) -> None:
        self._plan, self._session, self._stop = plan, session, stop
        self._sent_s: dict[int, float] = {}

    def run(self) -> None:
        while not self._finished():
            while self._session.in_flight < self._plan.ahead and not self._finished():
                self._send()
            self._receive()
        while self._session.in_flight:
            self._receive()

    def _finished(self) -> bool:
        return self._stop.is_set() or 0 < self._plan.steps <= len(self._sent_s)

    def _send(self) -> None:
        step = len(self._sent_s) + 1
        if self._sent_s:
            time.sleep(max(0.0, self._sent_s[step - 1] + self._plan.period_s - time.monotonic()))
        self._sent_s[step] = time.monotonic()
        while True:
            try:
                self._session.send_step(action_of(step), sim_time_us=step)
                break
            except ConnectionLost as error:
                self._lost(step, error)
        say("sent", step=step)

    def _receive(self) -> None:
        """Asks until the frame is there, or patience ends."""
        step = len(self._sent_s) - self._session.in_flight + 1
        while True:
            try:
                say_frame("frame", self._session.receive(), self._sent_s[step])
                return
            except ConnectionLost as error:
                self._lost(step, error)

    def _lost(self, step: int, error: ConnectionLost) -> None:
        say("lost", step=step, message=str(error))
        if time.monotonic() - self._sent_s[step] > self._plan.patience_s:
            raise error


def drive(plan: Plan, stop: threading.Event) -> None:
    """Opens, drives and closes. Raises SimStreamError."""
    keys = {"key": plan.secret_key, "server_key": plan.server_key}
    with StreamClient(plan.endpoint, timeout_s=plan.timeout_s, **keys) as client:
        sent_s = time.monotonic()
        frames = prompt_of(plan.key, client.info.spec.frame_shape[0])
        with client.open(frames, seed=plan.key) as session:
            say("opened", sid=session.sid, epoch=client.info.server_epoch)
            say_frame("first", session.frame, sent_s)
            Driver(plan, session, stop).run()
            sent_s = time.monotonic()
            last = session.close()
            if last is not None:
                say_frame("last", last, sent_s)
    say("closed")


def stop_at_end_of_stdin(stop: threading.Event) -> None:
    """Lets the session be closed; where the server is gone, too, nobody would answer."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    stop.set()
    time.sleep(CLOSE_S)
    os._exit(1)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--key", type=int, default=0, help="of the prompt, and the seed")
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--period-s", type=float, default=0.0)
    parser.add_argument("--timeout-s", type=float, default=10.0)
    parser.add_argument("--patience-s", type=float, default=30.0, help="for one frame")
    parser.add_argument("--ahead", type=int, default=1)
    parser.add_argument("--secret-key", type=Path, help="for a server that asks for keys")
    parser.add_argument("--server-key", type=Path)
    plan = Plan(**vars(parser.parse_args()))
    stop = threading.Event()
    threading.Thread(target=stop_at_end_of_stdin, args=(stop,), daemon=True).start()
    try:
        drive(plan, stop)
    except SimStreamError as error:
        say("error", code=getattr(error, "code", ""), message=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
