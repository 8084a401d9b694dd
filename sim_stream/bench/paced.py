"""One run over the wire: a session opened, stepped by the clock, every reply written down.

Steps leave when they are due, whatever has come back, as far as the protocol's limit of steps in
flight allows; latency counts from when a step was *due*. So a stall is felt by every step that fell
into it (no coordinated omission). Knows the wire's client; no models, no statistics.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sim_stream.wire.client.arguments import InputsLike
from sim_stream.wire.client.blocking_client import RemoteChunk, RemoteSession

# Free-running: the world model predicts one step while the video decoder is at another.
FREE_STEPS_IN_FLIGHT = 2
# A poll may end a millisecond late; the rest of the wait is slept.
POLL_MARGIN_NS = 3_000_000


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A step and what came back. Times by this machine's monotonic clock.

    ``frame_id``: the last of the ``frames`` it showed; with a lookahead that is not the step's own.
    The timing ``wire`` is the part of the round trip outside the server's queues, engine and
    decoder.
    """

    step: int
    due_ns: int
    send_ns: int
    recv_ns: int
    frame_id: int
    frames: int = 1
    final: bool
    approximated: bool
    accepted: tuple[int, ...]
    timings_ns: dict[str, int]

    @property
    def latency_ns(self) -> int:
        return self.recv_ns - self.due_ns

    @property
    def shown_step(self) -> int:
        """The one that its frames were predicted by."""
        return -(-self.frame_id // self.frames)


def drive(
    session: RemoteSession,
    steps: Sequence[InputsLike | None],
    *,
    pace_fps: float | None,
    in_flight: int,
    seen: Callable[[], object] = lambda: None,
) -> list[Reply]:
    """Sends each step; ``pace_fps`` None: as fast as replies come. Every reply in order.

    ``in_flight``: the server's limit. ``seen`` is called after each reply.
    """
    due_ns: deque[int] = deque()
    replies: list[Reply] = []

    def take() -> None:
        replies.append(reply_of(session.receive(), due_ns.popleft()))
        seen()

    most = min(in_flight, FREE_STEPS_IN_FLIGHT) if pace_fps is None else in_flight
    start_ns = time.monotonic_ns()
    for index, inputs in enumerate(steps):
        due = None if pace_fps is None else start_ns + round(index * 1e9 / pace_fps)
        while session.in_flight >= most:
            take()
        if due is not None:
            _wait_until(due, session, take)
        due_ns.append(time.monotonic_ns() if due is None else due)
        session.send_step(inputs)
    while session.in_flight:
        take()
    return replies


def _wait_until(due_ns: int, session: RemoteSession, take: Callable[[], None]) -> None:
    """Takes replies in as they come until it is time."""
    while session.in_flight:
        left_ns = due_ns - time.monotonic_ns() - POLL_MARGIN_NS
        if not session.ready(max(0.0, left_ns / 1e9)):
            break
        take()
    left_ns = due_ns - time.monotonic_ns()
    if left_ns > 0:
        time.sleep(left_ns / 1e9)


def reply_of(chunk: RemoteChunk, due_ns: int) -> Reply:
    stamps_ns = chunk.stamps_ns
    timings_ns = dict(chunk.timings_ns)
    server_end_ns = stamps_ns.get("decode_end", stamps_ns["engine_end"])
    # Both clocks in differences only: the server's may be another.
    timings_ns["wire"] = timings_ns["round_trip"] - (server_end_ns - stamps_ns["srv_recv"])
    return Reply(
        step=chunk.step,
        due_ns=due_ns,
        send_ns=stamps_ns["client_send"],
        recv_ns=stamps_ns["client_recv"],
        frame_id=chunk.frame_id,
        frames=len(chunk),
        final=chunk.final,
        approximated=chunk.approximated,
        accepted=tuple(round(codes) for codes in chunk.stats.get("accepted", ())),
        timings_ns=timings_ns,
    )
