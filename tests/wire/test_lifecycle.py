"""Servers come and go cleanly: addresses, signals, leases, shutdown; viewers never disturb."""

from __future__ import annotations

import signal
import threading
from dataclasses import replace

import msgpack
import numpy as np
import pytest
import zmq

from sim_stream.config import FrameSize
from sim_stream.errors import InvalidInput, RemoteError, Unavailable
from sim_stream.wire.client.blocking_client import StreamClient
from sim_stream.wire.framing import pack
from sim_stream.wire.messages import Close, Heartbeat, Open, Opened
from sim_stream.wire.server.dispatch import Dispatcher
from sim_stream.wire.server.jobs import Result
from sim_stream.wire.server.server import StreamServer
from sim_stream.wire.server.server import describe as describe_server
from tests.wire.conftest import TIMEOUT_S, RawClient
from tests.wire.toy import PRESET, ToyModel, prompt_frames, toy_spec


def test_port_in_use_names_the_address(server, runtime):
    second = StreamServer(runtime, bind=server.endpoint)
    with pytest.raises(Unavailable, match=f"cannot bind {server.endpoint}: Address already in use"):
        second.start()
    second.stop()


def test_viewers_port_in_use_releases_the_clients_port(server, runtime):
    second = StreamServer(runtime, bind="tcp://127.0.0.1:0", publish=server.endpoint)
    with pytest.raises(Unavailable, match="cannot bind"):
        second.start()
    with StreamServer(runtime, bind=second.endpoint) as third:
        assert third.endpoint == second.endpoint


@pytest.mark.parametrize(
    "address",
    [
        "tcp://0.0.0.0:5555",
        "tcp://*:5555",
        "tcp://192.168.1.2:5555",
        "tcp://[::]:5555",
        "tcp://eth0:5555",
        "tcp://127.0.0.1.example.com:5555",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:http",
        "tcp://127.0.0.1:70000",
        "tcp://127.0.0.1:" + "9" * 5000,
        "tcp://127.0.0.1:\uff11",
        "inproc://x",
        "127.0.0.1:5555",
        "",
    ],
)
def test_address_that_is_not_this_machines_is_refused(runtime, address):
    with pytest.raises(InvalidInput, match=r"bind: .*CURVE"):
        StreamServer(runtime, bind=address)
    with pytest.raises(InvalidInput, match="publish"):
        StreamServer(runtime, publish=address)


@pytest.mark.parametrize(
    "options",
    [{"max_sessions": 0}, {"max_in_flight": 0}, {"lease_s": 0}, {"lease_s": float("nan")}],
)
def test_impossible_options_are_refused(runtime, options):
    with pytest.raises(InvalidInput, match=next(iter(options))):
        StreamServer(runtime, **options)


def test_ipc_address_serves(serve, tmp_path):
    server = serve(bind=f"ipc://{tmp_path}/s")
    with StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as client:
        assert client.info.spec.model_id == "toy"


def test_server_restarts_under_a_new_epoch(serve):
    server = serve()
    with StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as client:
        first = client.info.server_epoch
    server.stop()
    server.stop()
    server.start()
    with StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as client:
        assert client.info.server_epoch != first


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_the_process_cleanly(server_process, number):
    with StreamClient(server_process.endpoint, timeout_s=TIMEOUT_S) as client:
        session = client.open(prompt_frames())
        session.step()
        status, log = server_process.stop(number)
        assert status == 0 and "stopped" in log and "Traceback" not in log
        with pytest.raises(RemoteError, match="SHUTTING_DOWN"):
            session.step()


def test_stop_finishes_the_frame_in_hand_and_refuses_the_rest(server, raw, runtime):
    started, go = threading.Event(), threading.Event()

    def hold(session, step):
        started.set()
        assert go.wait(TIMEOUT_S)

    sid = raw.open()
    runtime.hooks.predict = hold
    raw.send({"t": "step", "sid": sid, "step": 1})
    assert started.wait(TIMEOUT_S)
    raw.send({"t": "step", "sid": sid, "step": 2})
    assert raw.ask({"t": "heartbeat"})["t"] == "status"
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    queued = raw.receive()
    assert (queued["code"], queued["rid"]) == ("SHUTTING_DOWN", 3)
    assert raw.ask({"t": "fork", "sid": sid})["code"] == "SHUTTING_DOWN"
    go.set()
    in_hand, shutdown_notice = raw.receive(), raw.receive()
    assert (in_hand["t"], in_hand["frames"][-1]["step"]) == ("frames", 1)
    assert (shutdown_notice["code"], shutdown_notice["rid"]) == ("SHUTTING_DOWN", 0)
    stopping.join(TIMEOUT_S)
    assert not stopping.is_alive() and runtime.sessions_open == 0


def test_hung_engine_does_not_hang_stop_nor_status(serve, runtime, caplog):
    go, freed = threading.Event(), threading.Event()
    server = serve(stop_timeout_s=0.1)
    with StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as client:
        session = client.open(prompt_frames())
        runtime.hooks.predict = lambda session, step: go.wait(TIMEOUT_S)
        runtime.hooks.close = lambda session, step: freed.set()
        session.send_step()
        assert session.status().progress == client.status().progress == 1
        server.stop()
        assert "did not finish" in caplog.text
    go.set()
    assert freed.wait(TIMEOUT_S)


@pytest.mark.parametrize(("lease_s", "heartbeat_ms"), [(60.0, 1000), (0.3, 100), (0.001, 1)])
def test_heartbeats_are_asked_for_three_times_in_a_lease_at_least(lease_s, heartbeat_ms):
    info = describe_server(ToyModel().spec, 4, 2, lease_s)
    assert (info.heartbeat_ms, info.lease_ms) == (heartbeat_ms, round(lease_s * 1e3))


def test_vanished_client_loses_its_session(serve, runtime):
    freed = threading.Event()
    runtime.hooks.close = lambda session, step: freed.set()
    server = serve(lease_s=0.2)
    vanishing, later = RawClient(server.endpoint), RawClient(server.endpoint)
    sid = vanishing.open()
    vanishing.close()
    assert freed.wait(TIMEOUT_S)
    reply = later.ask({"t": "step", "sid": sid, "step": 1})
    assert reply["code"] == "NO_SESSION" and "expired" in reply["message"]
    later.close()


def opened_dispatcher(clock_ns, jobs):
    """With a lease of 10 ns and one session, which took 100 ns to open."""
    info = describe_server(ToyModel().spec, 4, 2, 1.0)
    dispatcher = Dispatcher(info, lambda job: not jobs.append(job), 10, lambda: clock_ns[0])
    opening = pack(Open(rid=1), {"frames": prompt_frames()})
    assert dispatcher.on_request(b"me", opening, clock_ns[0]) is None
    clock_ns[0] += 100
    assert dispatcher.expire() == []  # still opening
    [reply, *_] = dispatcher.on_result(Result(job=jobs[0], committed_step=0))
    assert isinstance(reply.packet.message, Opened)
    return dispatcher, reply.packet.message.sid


def test_lease_runs_from_the_last_message():
    clock_ns, jobs = [0], []
    dispatcher, sid = opened_dispatcher(clock_ns, jobs)
    clock_ns[0] += 5
    dispatcher.on_request(b"me", pack(Heartbeat(sid=sid)), clock_ns[0])
    clock_ns[0] += 10
    assert dispatcher.expire() == []
    clock_ns[0] += 1
    assert dispatcher.expire() == [sid] and dispatcher.expire() == []
    assert isinstance(jobs[1].request, Close) and jobs[1].route is None


def test_lease_begins_anew_with_a_reply_that_took_longer():
    clock_ns, jobs = [0], []
    dispatcher, sid = opened_dispatcher(clock_ns, jobs)
    clock_ns[0] += 10
    assert dispatcher.expire() == []
    clock_ns[0] += 1
    assert dispatcher.expire() == [sid]


def test_closing_the_client_closes_its_sessions(serve, runtime):
    freed = threading.Semaphore(0)
    runtime.hooks.close = lambda session, step: freed.release()
    with StreamClient(serve().endpoint, timeout_s=TIMEOUT_S) as client:
        session = client.open(prompt_frames())
        twin = session.fork()
        assert twin.step().step == 1
    assert all(freed.acquire(timeout=TIMEOUT_S) for _ in (session, twin))


def test_failure_in_a_with_block_closes_the_session_and_shows(client, runtime):
    freed = threading.Event()
    runtime.hooks.close = lambda session, step: freed.set()
    with pytest.raises(ZeroDivisionError), client.open(prompt_frames()):
        raise ZeroDivisionError
    assert freed.wait(TIMEOUT_S)


def viewer_of(server, context, **options):
    viewer = context.socket(zmq.SUB)
    viewer.linger = 0
    for name, value in options.items():
        setattr(viewer, name, value)
    viewer.subscribe(b"")
    viewer.connect(server.publish_endpoint)
    return viewer


def step_until_seen(session, viewer):
    """A subscription takes effect some time after connecting."""
    for _ in range(200):
        session.step()
        if viewer.poll(20):
            return
    raise AssertionError("the viewer saw nothing")


def receive_frame(viewer, frame_id):
    """The viewer's message with that frame; earlier ones are passed over."""
    while viewer.poll(TIMEOUT_S * 1e3):
        topic, header, image = viewer.recv_multipart()
        message = msgpack.unpackb(header)
        assert message["frames"][-1]["frame_id"] <= frame_id, "a frame is missing"
        if message["frames"][-1]["frame_id"] == frame_id:
            return topic, message, image
    raise AssertionError(f"frame {frame_id} did not come")


def test_viewer_sees_every_frame_under_the_sessions_topic(serve):
    server = serve(publish="tcp://127.0.0.1:0")
    with (
        zmq.Context() as context,
        viewer_of(server, context) as viewer,
        StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as client,
        client.open(prompt_frames()) as session,
    ):
        step_until_seen(session, viewer)
        for frame in [*(session.step() for _ in range(5)), session.close()]:
            topic, message, image = receive_frame(viewer, frame.frame_id)
            assert topic.decode() == message["sid"] == session.sid
            assert message["t"] == "frames" and message["frames"][-1]["step"] == frame.step
            shown = np.frombuffer(image, np.uint8).reshape(message["arrays"][0]["shape"])
            np.testing.assert_array_equal(shown, frame.images)


def test_stalled_viewer_misses_frames_and_slows_nobody():
    # 60 frames of 196 kB are more than the sockets' buffers hold, so somebody has to give way.
    large, steps = replace(PRESET, vq=replace(PRESET.vq, frame=FrameSize.square(256))), 60
    server = StreamServer(
        ToyModel(toy_spec(large)), bind="tcp://127.0.0.1:0", publish="tcp://127.0.0.1:0"
    )
    with (
        server,
        zmq.Context() as context,
        viewer_of(server, context, rcvhwm=1, rcvbuf=65536) as stalled,
        StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as client,
        client.open(prompt_frames(size=256)) as session,
    ):
        step_until_seen(session, stalled)
        first = session.step().step
        assert [session.step().step - first for _ in range(steps)][-1] == steps
        seen = 0
        while stalled.poll(100):
            stalled.recv_multipart()
            seen += 1
    assert 0 < seen < steps


def test_a_close_that_waits_behind_a_step_at_shutdown_disturbs_nothing(server, runtime):
    held, entered = threading.Event(), threading.Event()

    def hold(session, step):
        entered.set()
        assert held.wait(TIMEOUT_S)

    client = RawClient(server.endpoint)
    sid = client.open()
    runtime.hooks.predict = hold
    client.send({"t": "step", "sid": sid, "step": 1, "inputs": {}})
    assert entered.wait(TIMEOUT_S)
    client.send({"t": "close", "sid": sid})
    client.send({"t": "heartbeat"})
    assert client.receive()["t"] == "status"  # so the close has been read and queued
    stopper = threading.Thread(target=server.stop)
    stopper.start()
    refused = client.receive()
    assert (refused["t"], refused["code"]) == ("error", "SHUTTING_DOWN")
    held.set()
    frame = client.receive()
    assert (frame["t"], frame["frames"][-1]["step"]) == ("frames", 1)
    stopper.join(TIMEOUT_S)
    assert not stopper.is_alive()
    client.close()
