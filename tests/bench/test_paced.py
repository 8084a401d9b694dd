"""The clock of a paced run, over a real server whose engine sleeps instead of computing."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from sim_stream.bench.paced import Reply, drive
from sim_stream.wire.client.blocking_client import StreamClient
from sim_stream.wire.server.server import StreamServer
from tests.wire.toy import ToyModel, prompt_frames
from tests.wire.toy import drive as actions

Drive = Callable[..., list[Reply]]


@pytest.fixture
def toy() -> ToyModel:
    return ToyModel()


@pytest.fixture
def toy_drive(toy: ToyModel) -> Iterator[Drive]:
    with (
        StreamServer(toy, bind="tcp://127.0.0.1:0") as server,
        StreamClient(server.endpoint) as client,
    ):

        def run(steps: int, pace_fps: float | None, **options: object) -> list[Reply]:
            limit = client.info.limits.max_in_flight
            with client.open(prompt_frames()) as session:
                given = actions(steps)
                return drive(session, given, pace_fps=pace_fps, in_flight=limit, **options)

        yield run


def test_steps_are_due_by_the_clock_and_every_reply_is_kept(toy_drive: Drive) -> None:
    seen: list[None] = []
    replies = toy_drive(9, 100.0, seen=lambda: seen.append(None))
    assert [reply.step for reply in replies] == list(range(1, 10))
    assert len(seen) == 9
    due_ms = [(reply.due_ns - replies[0].due_ns) / 1e6 for reply in replies]
    assert due_ms == [10.0 * n for n in range(9)]
    assert all(reply.due_ns <= reply.send_ns < reply.recv_ns for reply in replies)


def test_a_stall_is_felt_by_every_step_that_fell_due_in_it(toy: ToyModel, toy_drive: Drive) -> None:
    def stall(session: object, step: int) -> None:
        if step == 3:
            time.sleep(0.4)

    toy.hooks.predict = stall
    replies = toy_drive(10, 50.0)
    # Step 3 + k was due k periods of 20 ms into a stall of 400 ms. Steps beyond the two in flight
    # were sent after the stall only, and count from when they were due all the same.
    for k, reply in enumerate(replies[2:]):
        assert reply.latency_ns >= (400 - 20 * k) * 1e6
    late = replies[6]
    assert late.timings_ns["round_trip"] < late.latency_ns / 2


def test_free_running_counts_from_sending_and_keeps_two_steps_in_flight(
    toy: ToyModel, toy_drive: Drive
) -> None:
    both = threading.Barrier(2, timeout=30)  # breaks unless two steps are under way at once
    toy.hooks.predict = lambda session, step: both.wait() if step == 2 else None
    toy.hooks.render = lambda session, step: both.wait() if step == 1 else None
    replies = toy_drive(6, None)
    assert [reply.step for reply in replies] == list(range(1, 7))
    for reply in replies:  # the clock is read just before the step is handed to the socket
        assert reply.latency_ns >= reply.timings_ns["round_trip"]


def test_time_outside_the_server_is_the_wires(toy: ToyModel, toy_drive: Drive) -> None:
    toy.hooks.render = lambda session, step: time.sleep(0.05)
    for reply in toy_drive(3, 5.0):
        assert 0 < reply.timings_ns["wire"] <= reply.timings_ns["round_trip"] - 50_000_000
