"""What the client checks, how it gives up and goes on; the example that uses no client at all."""

from __future__ import annotations

import subprocess
import sys
import threading

import msgspec
import numpy as np
import pytest
import zmq

from sim_stream.config import Action
from sim_stream.errors import ConnectionLost, InvalidInput, RemoteError, SessionClosed
from sim_stream.wire.client.blocking_client import StreamClient
from sim_stream.wire.client.pending_replies import PendingReplies
from sim_stream.wire.framing import pack
from sim_stream.wire.messages import Close
from tests.wire.conftest import ROOT, TIMEOUT_S
from tests.wire.toy import prompt_frames
from tests.wire.vectors import valid

FRAMES = prompt_frames()


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"frames": FRAMES.astype(np.float32)}, "frames"),
        ({"frames": FRAMES[0]}, "frames"),
        ({"frames": FRAMES[:, :16]}, "frames"),
        ({"frames": FRAMES[:0]}, "frames"),
        ({"frames": prompt_frames(6)}, "frames"),
        ({"frames": [FRAMES[0], FRAMES[1, :8]]}, "frames"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"seed": 1.0}, "seed"),
        ({"seed": True}, "seed"),
        ({"prompt_inputs": [None]}, "prompt_inputs"),
        ({"prompt_inputs": [None, (1.0,)]}, "prompt_inputs[1]"),
        ({"prompt_inputs": [None, (1.0, "0")]}, "prompt_inputs[1].yaw_rate_radps"),
        ({"prompt_inputs": 3}, "prompt_inputs"),
        ({"prompt_inputs": "no"}, "prompt_inputs"),
        ({"inputs": {"text": b"drive"}}, "inputs.text"),
        ({"inputs": {"text": "x" * 5000}}, "inputs.text"),
        ({"options": {"top_k": 0}}, "options.top_k"),
        ({"options": {"top_k": np.inf}}, "options.top_k"),
        ({"options": {"best_k": 1}}, "options.best_k"),
        ({"options": {3: 1}}, "options"),
        ({"options": "jacobi"}, "options"),
        ({"lookahead": 2}, "lookahead"),
        ({"lookahead": "1"}, "lookahead"),
        ({"mode": ["lockstep"]}, "mode"),
        ({"record": np.bool_(False)}, "record"),
        ({"record": 1}, "record"),
        ({"seed": "3"}, "seed"),
        ({"seed": 10**5000}, "seed"),
        ({"lookahead": True}, "lookahead"),
    ],
)
def test_open_names_what_is_wrong_before_it_sends(client, arguments, field):
    with pytest.raises(InvalidInput) as caught:
        client.open(**({"frames": FRAMES} | arguments))
    assert caught.value.field == field
    assert client.status().progress == 0


@pytest.mark.parametrize(
    "inputs",
    [{"speed": 1.0}, 3, "82", (1.0,), (1.0, 2.0, 3.0), ("8", 0.0), (8.0, None), (10**400, 0.0)],
    ids=repr,
)
def test_step_with_other_inputs_is_refused_and_changes_nothing(client, inputs):
    with client.open(FRAMES) as session:
        with pytest.raises(InvalidInput, match="inputs"):
            session.step(inputs)
        assert session.in_flight == 0
        assert session.step().step == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sim_time_us", 2**63),
        ("sim_time_us", 0.5),
        ("sim_time_us", "now"),
        ("deadline_ms", -1),
        ("deadline_ms", 10**400),
        ("deadline_ms", 2.5),
    ],
)
def test_times_that_no_message_can_hold_are_refused_before_they_are_sent(client, name, value):
    with client.open(FRAMES) as session:
        with pytest.raises(InvalidInput) as caught:
            session.step(**{name: value})
        assert caught.value.field == name and session.in_flight == 0
        assert session.step(sim_time_us=np.int64(5), deadline_ms=None).sim_time_us == 5


@pytest.mark.parametrize(
    "pair", [(2.0, 0.5), [2.0, 0.5], np.array([2, 0.5]), (2, np.float32(0.5))], ids=repr
)
def test_a_pair_is_an_action_as_policies_return_it(client, pair):
    given = Action(speed_mps=2.0, yaw_rate_radps=0.5)
    with (
        client.open(FRAMES, prompt_inputs=[None, given]) as one,
        client.open(FRAMES, prompt_inputs=[None, pair]) as two,
    ):
        np.testing.assert_array_equal(one.frame.image, two.frame.image)
        np.testing.assert_array_equal(one.step(given).image, two.step(pair).image)


def test_numpy_numbers_are_actions(client):
    with client.open(FRAMES) as one, client.open(FRAMES) as two:
        theirs = one.step(Action(speed_mps=np.float64(2), yaw_rate_radps=np.float64(0.5)))
        ours = two.step(Action(speed_mps=2.0, yaw_rate_radps=0.5))
        np.testing.assert_array_equal(theirs.image, ours.image)


def test_calls_out_of_order_are_refused(client):
    with client.open(FRAMES) as session:
        with pytest.raises(InvalidInput, match="no step in flight"):
            session.receive()
        session.send_step()
        for call in (session.step, session.fork):
            with pytest.raises(InvalidInput, match="in flight"):
                call()
        session.receive()


def test_list_of_images_and_strided_array_are_taken(client):
    wide = np.zeros((2, 32, 64, 3), np.uint8)
    wide[:, :, ::2] = FRAMES
    sessions = [client.open(frames) for frames in (list(FRAMES), wide[:, :, ::2], FRAMES)]
    for session in sessions:
        np.testing.assert_array_equal(session.frame.image, sessions[2].frame.image)
        session.close()


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf"), 10**400, "30", None])
def test_impossible_timeout_is_refused(timeout_s):
    with pytest.raises(InvalidInput, match="timeout_s"):
        StreamClient(timeout_s=timeout_s)


def test_impossible_endpoint_is_refused():
    with pytest.raises(InvalidInput, match="endpoint"):
        StreamClient("carrier pigeon")


def test_sessions_of_a_server_that_left_are_over_at_once_and_a_new_one_opens(server, client, serve):
    one, two = client.open(FRAMES), client.open(FRAMES)
    server.stop()
    for session in (one, two):
        with pytest.raises(RemoteError, match="SHUTTING_DOWN"):
            session.step()
        with pytest.raises(SessionClosed):
            session.step()
        assert session.close() is None
    serve(bind=server.endpoint)
    with client.open(FRAMES) as session:
        assert session.step().step == 1


def test_session_that_the_server_forgot_is_over(client):
    session = client.open(FRAMES)
    client._connection.send_unanswered(Close(sid=session.sid))
    with pytest.raises(RemoteError, match="NO_SESSION"):
        session.step()
    with pytest.raises(SessionClosed):
        session.step()


def test_no_server_is_connection_lost_within_the_timeout(server):
    server.stop()
    with pytest.raises(ConnectionLost, match=r"no answer from .* within 0.1 s") as caught:
        StreamClient(server.endpoint, timeout_s=0.1)
    assert caught.value.retryable


def test_client_waits_for_a_server_that_comes_later(server, serve):
    endpoint, ready = server.endpoint, []
    server.stop()
    connecting = threading.Thread(
        target=lambda: ready.append(StreamClient(endpoint, timeout_s=TIMEOUT_S))
    )
    connecting.start()
    serve(bind=endpoint)
    connecting.join(TIMEOUT_S)
    ready[0].close()


def test_step_whose_reply_was_late_is_received_later_and_taken_once(server, client, runtime):
    go, calls = threading.Event(), []

    def hold(session, step):
        calls.append(step)
        assert go.wait(TIMEOUT_S)

    with StreamClient(server.endpoint, timeout_s=1.0) as impatient, client.open(FRAMES) as patient:
        session = impatient.open(FRAMES)
        runtime.hooks.predict = hold
        with pytest.raises(ConnectionLost):
            session.step()
        assert session.in_flight == 1
        go.set()
        frame = session.receive()
        assert (frame.step, calls) == (1, [1])
        np.testing.assert_array_equal(frame.image, patient.step().image)
        assert session.step().step == 2


def test_error_of_one_session_reaches_that_session(client):
    one, two = client.open(FRAMES), client.open(FRAMES)
    one.send_step(Action(speed_mps=999.0, yaw_rate_radps=0.0))
    two.send_step()
    assert two.receive().step == 1
    with pytest.raises(RemoteError, match="BAD_MESSAGE"):
        one.receive()
    one.close()
    two.close()


def test_refused_shutdown_notice_of_an_abandoned_session_leaves_the_others_alone(client, runtime):
    go = threading.Event()
    abandoned, other = client.open(FRAMES), client.open(FRAMES)
    sid = abandoned.sid
    runtime.hooks.close = lambda session, step: go.wait(TIMEOUT_S)
    rid = client._connection.send(Close(sid=sid))  # under way, so that another close is refused
    assert abandoned.abandon()
    assert other.status().sessions == 2  # the refusal of the second close has come before this
    go.set()
    assert client._connection.wait(rid, TIMEOUT_S).message.sid == sid
    assert other.step().step == 1


def test_closed_client_refuses(server):
    client = StreamClient(server.endpoint, timeout_s=TIMEOUT_S)
    session = client.open(FRAMES)
    client.close()
    client.close()
    assert session.close() is None
    for call in (session.step, client.status, lambda: client.open(FRAMES)):
        with pytest.raises(SessionClosed):
            call()


def test_reply_that_breaks_the_protocol_is_refused():
    with zmq.Context() as context, context.socket(zmq.ROUTER) as impostor:
        impostor.linger = 0
        port = impostor.bind_to_random_port("tcp://127.0.0.1")

        def answer():
            route, _ = impostor.recv_multipart()
            impostor.send_multipart([route, b"\xc1"])

        answering = threading.Thread(target=answer)
        answering.start()
        with pytest.raises(InvalidInput, match="header"):
            StreamClient(f"tcp://127.0.0.1:{port}", timeout_s=TIMEOUT_S)
        answering.join(TIMEOUT_S)


def test_minimal_client_drives_a_server(server_process, tmp_path):
    example = ROOT / "examples" / "minimal_client.py"
    source = example.read_text()
    assert len(source.splitlines()) < 65 and "sim_stream" not in source
    (tmp_path / "prompt.rgb").write_bytes(prompt_frames().tobytes())
    grey = "the model cannot show this prompt: 14.9 dB, it takes 25 or more"
    for prompt, warning in (([], [grey]), ([tmp_path / "prompt.rgb"], [])):
        done = subprocess.run(
            [sys.executable, example, server_process.endpoint, *prompt],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert lines[: len(warning)] == warning
        shown = [line.split() for line in lines[len(warning) :]]
        assert [int(word[1]) for word in shown] == [0, 0, 1, 2, 3, 4, 5]


def test_minimal_client_says_what_to_start_where_nobody_listens(tmp_path):
    endpoint = f"ipc://{tmp_path}/nobody"
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "minimal_client.py", endpoint],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"no answer; start it: sim-stream serve --bind {endpoint}\n"


def test_another_epoch_in_any_reply_ends_the_wait_for_the_server_before():
    def reply(message):
        pending_replies.put(pack(message), 0)

    pending_replies, status = (
        PendingReplies(),
        next(v for v in valid.REPLIES if v.name == "status").message,
    )
    answered, waiting = pending_replies.issue(), pending_replies.issue()
    pending_replies.expect(answered)
    pending_replies.expect(waiting)
    reply(msgspec.structs.replace(status, rid=answered))
    assert pending_replies.expects(waiting)
    reply(msgspec.structs.replace(status, rid=99, server_epoch="another"))
    assert not pending_replies.expects(waiting)
    assert pending_replies.take(answered).message.rid == answered
