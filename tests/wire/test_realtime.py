"""Realtime sessions: the newest step wins, frames keep the session's rate, drops count."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from sim_stream.config import Action
from sim_stream.errors import InvalidInput
from sim_stream.recording.load import load
from sim_stream.recording.recorder import Recorder
from sim_stream.recording.replay import replay
from sim_stream.wire.client.async_client import AsyncStreamClient
from sim_stream.wire.client.blocking_client import StreamClient
from sim_stream.wire.messages import Step
from sim_stream.wire.server.inbox import EARLY, Inbox
from sim_stream.wire.server.jobs import Job, Pace
from sim_stream.wire.server.server import StreamServer
from tests.wire.conftest import TIMEOUT_S
from tests.wire.test_resume import RecordingServer
from tests.wire.toy import PRESET, ToyModel, drive, prompt_frames, toy_spec

FPS = 50
PERIOD_S = 1 / FPS
FRAMES = prompt_frames()
LOCAL = "tcp://127.0.0.1:0"


@pytest.fixture
def runtime():
    return ToyModel(toy_spec(replace(PRESET, fps=FPS)))


def hold_step(runtime, which):
    """The engine stands still in that step until the second event is set."""
    entered, go = threading.Event(), threading.Event()

    def hold(session, step):
        if step == which:
            entered.set()
            assert go.wait(TIMEOUT_S)

    runtime.hooks.predict = hold
    return entered, go


def test_newest_step_wins_and_those_it_replaces_are_told_at_once(raw, server, runtime):
    entered, go = hold_step(runtime, 1)
    sid = raw.open(mode="realtime")
    raw.send({"t": "step", "sid": sid, "step": 1})
    assert entered.wait(TIMEOUT_S)
    first_waiting = raw.send({"t": "step", "sid": sid, "step": 2})
    for step in (5, 6):
        raw.send({"t": "step", "sid": sid, "step": step, "sim_time_us": step})
        dropped = raw.receive()
        assert (dropped["code"], dropped["retryable"]) == ("DROPPED", False)
        assert (dropped["rid"], dropped["committed_step"]) == (first_waiting, 0)
        first_waiting = raw.rid
    go.set()
    one, six = raw.receive()["frames"][-1], raw.receive()
    assert (one["step"], one["frame_id"], one["dropped"]) == (1, 0, 2)
    frame = six["frames"][-1]
    assert (frame["step"], frame["sim_time_us"], six["committed_step"]) == (6, 6, 6)
    assert (frame["frame_id"], frame["lag_frames"], frame["dropped"]) == (1, 1, 2)
    closed = raw.ask({"t": "close", "sid": sid})
    assert (closed["frames"][-1]["step"], closed["frames"][-1]["frame_id"]) == (6, 2)
    assert server.counters.errors["DROPPED"] == 2


def test_frames_are_those_of_the_steps_that_were_taken(client, runtime):
    entered, go = hold_step(runtime, 1)
    actions = drive(5)
    with client.open(FRAMES, mode="realtime") as session:
        session.send_step(actions[0])
        assert entered.wait(TIMEOUT_S)
        for action in actions[1:]:
            session.send_step(action)
        client.status()  # so that all have been read
        go.set()
        frames = [session.receive(), session.receive()]
        assert session.in_flight == 0 and [frame.dropped for frame in frames] == [3, 3]
    with client.open(FRAMES) as lockstep:
        expected = [lockstep.step(actions[0]), lockstep.step(actions[4])]
    assert [frame.step for frame in frames] == [1, 5]
    np.testing.assert_array_equal([f.image for f in frames], [f.image for f in expected])


def test_repeated_step_gets_its_reply_and_a_late_one_is_dropped(raw):
    sid = raw.open(mode="realtime")
    step = {"t": "step", "sid": sid, "step": 7, "inputs": {}}
    first, again = raw.ask(step), raw.ask(step)
    assert first["parts"] == again["parts"] and again["committed_step"] == 7
    assert raw.ask(step | {"sim_time_us": 1})["code"] == "STEP_CONFLICT"
    late = raw.ask(step | {"step": 6})
    assert (late["code"], late["committed_step"]) == ("DROPPED", 7)
    assert raw.ask(step | {"step": 8})["committed_step"] == 8


def test_refused_step_costs_no_other(client):
    with client.open(FRAMES, mode="realtime") as session:
        session.send_step(Action(speed_mps=999.0, yaw_rate_radps=0.0))
        with pytest.raises(Exception, match="less than 999"):
            session.receive()
        frame = session.step()
        assert (frame.step, frame.frame_id) == (2, 0)


def test_flood_is_answered_at_the_sessions_rate(client):
    with client.open(FRAMES, mode="realtime") as session:
        begun_s, frames = time.monotonic(), []
        while len(frames) < 6:
            session.send_step()
            while session.ready(PERIOD_S / 10):
                frames.append(session.receive())
        took_s = time.monotonic() - begun_s
        while session.in_flight:
            frames.append(session.receive())
    starts_ns = [frame.stamps_ns["engine_start"] for frame in frames]
    # Whatever the machine's load, no two frames begin closer than this, and none came for free.
    assert min(np.diff(starts_ns)) >= (1 - EARLY) * PERIOD_S * 1e9 * 0.99
    assert took_s >= 5 * PERIOD_S * (1 - EARLY)
    assert frames[-1].dropped == frames[-1].step - len(frames) > 0


def test_pace_holds_on_average_and_forgives_clocks_that_are_not_exact():
    inbox, pace = Inbox(8), Pace(period_ns=100_000_000, ahead=2)

    def taken_at(now_ns):
        inbox._jobs = [Job(sid="s", request=Step(sid="s", step=1), t_recv_ns=0, pace=pace)]
        ready, _ = inbox._split({}, now_ns)
        inbox._pace(ready, now_ns)
        return bool(ready)

    ms = 1_000_000
    arrivals = [0, 100, 176, 300, 374, 375, 1000, 1074, 1075, 1174, 1175]
    assert [taken_at((1000 + at) * ms) for at in arrivals] == [
        *(True, True, True, True, False, True),  # 376 - 400 < a quarter
        *(True, False, True, False, True),
    ]


def test_slow_decoder_lets_steps_wait_rather_than_pile_up(raw, runtime):
    go, rendering = threading.Event(), []

    def hold(session, step):
        rendering.append(step)
        assert not step or go.wait(TIMEOUT_S)

    runtime.hooks.render = hold
    predicted = []
    runtime.hooks.predict = lambda session, step: predicted.append(step)
    sid = raw.open(mode="realtime")
    for step in range(1, 9):
        raw.send({"t": "step", "sid": sid, "step": step})
        time.sleep(PERIOD_S)
    assert predicted == [1, 2]  # max_in_flight
    go.set()
    assert raw.receive()["code"] == "DROPPED"


def test_lockstep_sessions_are_not_paced(client):
    with (
        client.open(FRAMES, mode="realtime") as realtime,
        client.open(FRAMES) as lockstep,
    ):
        realtime.step()
        realtime.send_step()
        assert [lockstep.step().step for _ in range(5)] == [1, 2, 3, 4, 5]
        assert lockstep.step().dropped == 0
        assert realtime.receive().step == 2


def test_reset_and_fork_of_a_realtime_session(client):
    with client.open(FRAMES, mode="realtime") as session:
        session.step(drive(1)[0])
        with session.fork() as twin:
            ours, theirs = session.step(drive(2)[1]), twin.step(drive(2)[1])
            np.testing.assert_array_equal(ours.image, theirs.image)
            for one in (session, twin):
                for _ in range(3):
                    one.send_step()
                while one.in_flight:
                    one.receive()
        assert session.reset(FRAMES).step == 0
        assert session.step().step == 1


def test_unknown_mode_and_too_many_unanswered_steps_are_refused(client, runtime):
    with pytest.raises(InvalidInput, match="lockstep, realtime"):
        client.open(FRAMES, mode="warp")
    entered, go = hold_step(runtime, 1)
    with client.open(FRAMES, mode="realtime") as session:
        session.send_step()
        assert entered.wait(TIMEOUT_S)
        for _ in range(200):
            session.send_step()
            client.status()
        assert session.in_flight < 10
        go.set()


def test_asyncio_client_in_realtime(server):
    async def main():
        async with (
            AsyncStreamClient(server.endpoint, timeout_s=TIMEOUT_S) as client,
            await client.open(FRAMES, mode="realtime") as session,
        ):
            for action in drive(8):
                await session.send_step(action)
            frames = []
            while not frames or frames[-1].step < 8:
                frames.append(await session.receive())
            assert frames[-1].dropped == 8 - len(frames)

    asyncio.run(main())


def test_recorded_realtime_session_replays_equal(runtime, tmp_path):
    with (
        Recorder(tmp_path, by="server") as recorder,
        StreamServer(runtime, bind=LOCAL, observer=recorder) as server,
        StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as client,
        client.open(FRAMES, mode="realtime") as session,
    ):
        for action in drive(20):
            session.send_step(action)
            time.sleep(PERIOD_S / 3)
        while session.in_flight:
            session.receive()
    (path,) = tmp_path.glob("*.jsonl")
    with StreamServer(runtime, bind=LOCAL) as server:
        report = replay(load(path), server.endpoint)
    assert report.same and report.complete and 2 < report.frames < 21


def test_realtime_session_survives_a_restart(tmp_path):
    recording = RecordingServer(tmp_path)
    quick = ToyModel(toy_spec(replace(PRESET, fps=FPS)))
    recording.restart(runtime=quick)
    with StreamClient(recording.endpoint, timeout_s=TIMEOUT_S) as client:
        session = client.open(FRAMES, mode="realtime")
        taken = [session.step(action) for action in drive(3)]
        for action in drive(6)[3:]:
            session.send_step(action)
        taken.append(session.receive())
        while session.in_flight:
            taken.append(session.receive())
        recording.restart(runtime=ToyModel(quick.spec))
        for action in drive(9)[6:]:
            session.send_step(action)
        while session.in_flight:
            taken.append(session.receive())
        assert taken[-1].step == 9
        with client.open(FRAMES) as lockstep:
            for frame in taken:
                expected = lockstep.step(drive(9)[frame.step - 1])
                np.testing.assert_array_equal(frame.image, expected.image)
    recording.stop()
