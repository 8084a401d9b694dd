"""What a client gets from a server, end to end: frames, steps taken exactly once, forks."""

from __future__ import annotations

import threading
from dataclasses import asdict

import numpy as np
import pytest

from sim_stream.config import Action
from sim_stream.errors import InvalidInput, RemoteError, SessionClosed
from tests.wire.conftest import TIMEOUT_S, frames_spec
from tests.wire.toy import PRESET, SIZE, SPEED_REFUSED_MPS, ToyModel, drive, prompt_frames


def test_hello_says_what_runs(client):
    info = client.info
    assert (info.spec.model_id, info.spec.weights_sha256, info.spec.fps) == ("toy", "0" * 64, 4.0)
    assert info.spec.frame_shape == (SIZE, SIZE, 3)
    assert info.spec.prompt_frames == (1, PRESET.session.context_frames - 1)
    assert info.spec.step_inputs[0].unit == "m/s"
    assert info.spec.defaults["top_k"] == PRESET.sampling.top_k


@pytest.mark.parametrize("lookahead", [0, 1])
def test_frames_equal_those_of_a_local_session(client, lookahead):
    frames, led_to = prompt_frames(3), [None, *drive(2)]
    options = {"top_k": 7, "temperature": 0.5}
    local = ToyModel().open_session(lookahead=lookahead)
    named = [{}, *(asdict(action) for action in drive(2))]
    expected = [
        local.reset(frames, seed=2**64 - 1, prompt_inputs=named, options=options),
        *(local.predict(action).render() for action in drive(5)),
    ]
    expected += [last] if (last := local.flush()) else []

    session = client.open(
        frames, seed=2**64 - 1, prompt_inputs=led_to, options=options, lookahead=lookahead
    )
    got = [session.frame, *(session.step(action) for action in drive(5))]
    got += [last] if (last := session.close()) else []

    assert len(got) == len(expected) == 6 + lookahead
    for theirs, ours in zip(got, expected, strict=True):
        np.testing.assert_array_equal(theirs.images, ours.images)
        assert theirs.frame_id == ours.first_frame_id
        for name in ("lag_frames", "final", "marks"):
            assert getattr(theirs, name) == getattr(ours, name)
    assert [one.step for one in got] == [*range(6), 5][: len(got)]


def test_frame_bears_timings_stamps_and_simulation_time(client):
    with client.open(prompt_frames()) as session:
        frame = session.step(sim_time_us=-5)
    assert frame.sim_time_us == -5 and frame.committed_step == 1
    stages = {"world_model", "video_decode", "queue", "decode_queue", "round_trip"}
    assert set(frame.timings_ns) == stages and min(frame.timings_ns.values()) >= 0
    names = ("srv_recv", "engine_start", "engine_end", "decode_start", "decode_end", "srv_send")
    stamps = [frame.stamps_ns[name] for name in names]
    assert stamps == sorted(stamps)
    assert frame.stamps_ns["client_send"] <= frame.stamps_ns["client_recv"]
    frame.image[:] = 0  # the caller's own


def test_reset_starts_anew(client):
    with client.open(prompt_frames(), seed=1) as session:
        first = session.step(drive(1)[0])
        session.step()
        assert session.reset(prompt_frames(), seed=1).step == 0
        again = session.step(drive(1)[0])
        assert again.step == 1
        np.testing.assert_array_equal(again.image, first.image)


def test_fork_continues_alike_and_apart(client):
    with client.open(prompt_frames()) as session:
        session.step(drive(1)[0])
        with session.fork() as twin:
            assert twin.sid != session.sid and twin.frame.step == 1
            same, other = (
                Action(speed_mps=1, yaw_rate_radps=0),
                Action(speed_mps=2, yaw_rate_radps=0),
            )
            ours, theirs = session.step(same), twin.step(same)
            assert ours.step == theirs.step == 2
            np.testing.assert_array_equal(ours.image, theirs.image)
            assert (session.step(same).image != twin.step(other).image).any()


def test_repeated_step_brings_the_same_reply(raw):
    step = {"t": "step", "sid": raw.open(), "step": 1, "inputs": {}}
    first, again = raw.ask(step), raw.ask(step)
    assert again["t"] == "frames" and again.pop("rid") == first.pop("rid") + 1
    assert again == first


def test_step_repeated_while_under_way_is_answered_twice_and_taken_once(raw, runtime):
    go, calls = threading.Event(), []

    def hold(session, step):
        calls.append(step)
        assert go.wait(TIMEOUT_S)

    sid = raw.open()
    runtime.hooks.predict = hold
    rids = {raw.send({"t": "step", "sid": sid, "step": 1}) for _ in range(2)}
    assert raw.ask({"t": "heartbeat"})["t"] == "status"  # both were read
    go.set()
    replies = [raw.receive(), raw.receive()]
    assert {reply["rid"] for reply in replies} == rids
    assert replies[0]["parts"] == replies[1]["parts"] and calls == [1]


@pytest.mark.parametrize(
    ("step", "inputs"),
    [(1, {"speed_mps": 1.0, "yaw_rate_radps": 0.0}), (3, {}), (0, {}), (2**63 - 1, {})],
    ids=["other content", "gap", "before the first", "far ahead"],
)
def test_conflicting_step_is_refused_and_changes_nothing(raw, step, inputs):
    sid = raw.open()
    raw.ask({"t": "step", "sid": sid, "step": 1, "inputs": {}})
    reply = raw.ask({"t": "step", "sid": sid, "step": step, "inputs": inputs})
    assert (reply["code"], reply["committed_step"]) == ("STEP_CONFLICT", 1)
    assert raw.ask({"t": "step", "sid": sid, "step": 2})["committed_step"] == 2


def test_reply_cache_is_bounded(raw):
    sid = raw.open()
    for step in range(1, 8):
        raw.ask({"t": "step", "sid": sid, "step": step})
    assert raw.ask({"t": "step", "sid": sid, "step": 7})["t"] == "frames"
    assert raw.ask({"t": "step", "sid": sid, "step": 1})["code"] == "STEP_CONFLICT"


def test_closing_again_brings_the_last_frame_again(raw):
    sid = raw.open()
    raw.ask({"t": "step", "sid": sid, "step": 1})
    first, again = raw.ask({"t": "close", "sid": sid}), raw.ask({"t": "close", "sid": sid})
    assert first["t"] == again["t"] == "closed"
    assert first["frames"][-1]["frame_id"] == 1 and first["parts"] == again["parts"] != []
    assert raw.ask({"t": "close", "sid": "never was"})["t"] == "closed"


def test_prediction_runs_while_the_previous_frame_is_decoded(client, runtime):
    predicted = [threading.Event() for _ in range(4)]
    overlapped = []

    def render(session, step):
        if 0 < step < 3:  # ends only when the next prediction has begun: needs a second thread
            overlapped.append(predicted[step + 1].wait(TIMEOUT_S))

    runtime.hooks.predict = lambda session, step: predicted[step].set()
    runtime.hooks.render = render
    with client.open(prompt_frames()) as session:
        session.send_step()
        session.send_step()
        frames = [session.receive()]
        session.send_step()
        frames += [session.receive(), session.receive()]
    assert [frame.step for frame in frames] == [1, 2, 3] and overlapped == [True, True]


def test_ready_tells_when_a_reply_is_there_and_never_blocks_longer_than_asked(client, runtime):
    go = threading.Event()
    with client.open(prompt_frames()) as session:
        assert not session.ready()  # nothing was asked for
        runtime.hooks.predict = lambda session, step: go.wait(TIMEOUT_S)
        session.send_step()
        assert not session.ready(0.01)
        go.set()
        assert session.ready(TIMEOUT_S) and session.ready()
        assert session.receive().step == 1


def test_step_beyond_the_in_flight_limit_is_busy(raw, client, runtime):
    go = threading.Event()
    sid, session = raw.open(), client.open(prompt_frames())
    runtime.hooks.predict = lambda session, step: go.wait(TIMEOUT_S)
    for step in (1, 2, 3):
        raw.send({"t": "step", "sid": sid, "step": step})
    refused = raw.receive()
    assert (refused["code"], refused["retryable"], refused["rid"]) == ("BUSY", True, raw.rid)
    session.send_step()
    session.send_step()
    with pytest.raises(InvalidInput, match="2 in flight"):
        session.send_step()
    go.set()
    assert [raw.receive()["frames"][-1]["step"] for _ in (1, 2)] == [1, 2]
    assert raw.ask({"t": "step", "sid": sid, "step": 3})["committed_step"] == 3


def test_step_that_queued_past_its_deadline_is_not_taken(raw, runtime):
    started, go = threading.Event(), threading.Event()

    def hold(session, step):
        started.set()
        assert go.wait(TIMEOUT_S)

    sid = raw.open()
    runtime.hooks.predict = hold
    raw.send({"t": "step", "sid": sid, "step": 1})
    assert started.wait(TIMEOUT_S)
    raw.send({"t": "step", "sid": sid, "step": 2, "deadline_ms": 0})
    assert raw.ask({"t": "heartbeat"})["t"] == "status"
    go.set()
    replies = {reply["rid"]: reply for reply in (raw.receive(), raw.receive())}
    refused = replies[raw.rid - 1]
    assert (refused["code"], refused["committed_step"]) == ("DEADLINE", 1)
    assert raw.ask({"t": "step", "sid": sid, "step": 2})["committed_step"] == 2


def test_refused_action_changes_nothing(client):
    with client.open(prompt_frames()) as session, client.open(prompt_frames()) as untouched:
        with pytest.raises(RemoteError, match="speed_mps") as caught:
            session.step(Action(speed_mps=SPEED_REFUSED_MPS, yaw_rate_radps=0))
        assert (caught.value.code, caught.value.committed_step) == ("BAD_MESSAGE", 0)
        np.testing.assert_array_equal(session.step().image, untouched.step().image)


def test_step_in_flight_behind_a_refused_one_is_refused_too(client):
    with client.open(prompt_frames()) as session:
        session.send_step(Action(speed_mps=SPEED_REFUSED_MPS, yaw_rate_radps=0))
        session.send_step()
        for code in ("BAD_MESSAGE", "STEP_CONFLICT"):
            with pytest.raises(RemoteError, match=code):
                session.receive()
        assert session.step().step == 1


@pytest.mark.parametrize("stage", ["predict", "render"])
def test_engine_failure_hurts_its_session_only(client, runtime, caplog, stage):
    broken, healthy = client.open(prompt_frames()), client.open(prompt_frames())

    def fail(session, step):
        if step == 2:
            raise RuntimeError("device lost")

    for session in (healthy, healthy, healthy, broken):
        session.step()
    setattr(runtime.hooks, stage, fail)
    with pytest.raises(RemoteError, match="device lost") as caught:
        broken.step()
    assert caught.value.code == "ENGINE_FAILED" and "device lost" in caplog.text
    with pytest.raises(RemoteError, match="failed earlier"):
        broken.step()
    assert healthy.step().step == 4
    broken.reset(prompt_frames())
    assert broken.step().step == 1
    broken.close()
    healthy.close()


def test_engine_failure_while_opening_leaves_no_session(client, runtime):
    def fail(session, step):
        raise MemoryError("cache")

    runtime.hooks.render = fail
    with pytest.raises(RemoteError, match="MemoryError: cache"):
        client.open(prompt_frames())
    assert (client.status().sessions, runtime.sessions_open) == (0, 0)


def test_interleaved_sessions_do_not_disturb_each_other(client):
    local = ToyModel().open_session()
    local.reset(prompt_frames(), seed=3)
    with client.open(prompt_frames(), seed=3) as one, client.open(prompt_frames(key=1)) as two:
        for action in drive(4):
            two.send_step(None)
            np.testing.assert_array_equal(one.step(action).image, local.step(action).image)
            two.receive()


def test_steps_of_sessions_are_under_way_together(client, runtime):
    """A step that takes for ever does not hold up another session's steps, forks or resets."""
    slow, fast = client.open(prompt_frames(key=1)), client.open(prompt_frames(key=2))
    begun = threading.Event()

    def passes(session):
        if begun.is_set():
            return 1
        begun.set()
        return 10**9

    runtime.hooks.passes = passes
    slow.send_step()
    assert begun.wait(TIMEOUT_S)
    assert [fast.step().step for _ in range(3)] == [1, 2, 3]
    with fast.fork() as twin:
        assert twin.step().step == 4
    assert fast.reset(prompt_frames(key=3)).step == 0
    assert not slow.ready(0.05)
    runtime.passes += 10**9
    assert slow.receive().step == 1
    slow.close()
    assert runtime.prefilled == 5  # once after every step


def test_session_limit(raw):
    sids, frames = [raw.open() for _ in range(4)], prompt_frames()
    reply = raw.ask({"t": "open", "arrays": [frames_spec(frames)]}, frames.tobytes())
    assert reply["code"] == "LIMIT" and "4 sessions" in reply["message"]
    assert raw.ask({"t": "fork", "sid": sids[0]})["code"] == "LIMIT"
    raw.ask({"t": "close", "sid": sids[0]})
    raw.open()


def test_closed_session_refuses_and_closes_again(client):
    session = client.open(prompt_frames())
    session.step()
    last = session.close()
    assert last.frame_id == 1 and session.close() is last
    with pytest.raises(SessionClosed):
        session.step()


def test_status_shows_progress(client):
    with client.open(prompt_frames()) as session:
        before = session.status()
        session.step()
        after = session.status()
    assert after.progress == before.progress + 1 and after.committed_step == 1
    assert after.srv_recv_ns <= after.srv_send_ns and after.sessions == 1
