"""A server that records is restarted, and its sessions go on as if nothing had happened."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim_stream.config import SamplingConfig
from sim_stream.errors import ConnectionLost, InvalidInput, RemoteError, SessionClosed
from sim_stream.recording.archive import KEY_FILE, RecordedSessions
from sim_stream.recording.load import load
from sim_stream.recording.recorder import Recorder
from sim_stream.recording.replay import replay
from sim_stream.recording.session import SessionRecording
from sim_stream.wire.client.async_client import AsyncStreamClient
from sim_stream.wire.client.blocking_client import StreamClient
from sim_stream.wire.observe import Past
from sim_stream.wire.server.resume import sign
from sim_stream.wire.server.server import StreamServer
from tests.wire.conftest import TIMEOUT_S, RawClient, ServerProcess
from tests.wire.test_security import Realm
from tests.wire.toy import PRESET, ToyModel, drive, prompt_frames, toy_spec

FRAMES = prompt_frames()


class RecordingServer:
    """A toy server that records into a folder and can be restarted on its port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.endpoint = "tcp://127.0.0.1:0"
        self.runtime = ToyModel()
        self._stack = ExitStack()
        self.start()

    def start(self, runtime: ToyModel | None = None, form: str = "ffv1", **options: Any) -> None:
        self.runtime = runtime or ToyModel()
        recorder = self._stack.enter_context(Recorder(self.folder, by="server", form=form))
        archive = RecordedSessions(self.folder)
        server = StreamServer(
            self.runtime,
            **({"bind": self.endpoint, "observer": recorder, "archive": archive} | options),
        )
        self._stack.enter_context(server)
        self.endpoint = server.endpoint

    def stop(self, *told: RawClient) -> None:
        """``told`` read the shutdown notice."""
        self._stack.close()
        for raw in told:
            assert (raw.receive()["rid"]) == 0

    def restart(self, *told: RawClient, runtime: ToyModel | None = None, **options: Any) -> None:
        self.stop(*told)
        self.start(runtime, **options)

    def recordings(self) -> list[Path]:
        """In the order of their parts."""
        return sorted(self.folder.glob("*.jsonl"), key=lambda path: len(load(path).shown))


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[RecordingServer]:
    server = RecordingServer(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def connected(recording: RecordingServer) -> Iterator[Callable[..., StreamClient]]:
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(
            StreamClient(recording.endpoint, **({"timeout_s": TIMEOUT_S} | options))
        )


@pytest.fixture
def raw_to() -> Iterator[Callable[[str], RawClient]]:
    with ExitStack() as stack:

        def connect(endpoint: str) -> RawClient:
            raw = RawClient(endpoint)
            stack.callback(raw.close)
            return raw

        yield connect


def uninterrupted(steps: int, **start: Any) -> list[np.ndarray]:
    """The frames of that drive on a server that nothing happens to, the closing one last."""
    with (
        StreamServer(ToyModel(), bind="tcp://127.0.0.1:0") as server,
        StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as client,
        client.open(FRAMES, **start) as session,
    ):
        images = [session.frame.image, *(session.step(a).image for a in drive(steps))]
        last = session.close()
    return images if last is None else [*images, last.image]


@pytest.mark.parametrize(
    "start",
    [
        {"seed": 5},
        {"lookahead": 0, "prompt_inputs": [None, drive(1)[0]]},
        {"options": {"top_k": 3, "temperature": 0.5, "strategy": "jacobi", "window": 2}},
    ],
)
def test_session_goes_on_with_equal_frames_after_a_restart(recording, connected, start):
    client, actions = connected(), drive(7)
    session = client.open(FRAMES, **start)
    images = [session.frame.image, *(session.step(action).image for action in actions[:3])]
    recording.restart()
    images += [session.step(action).image for action in actions[3:5]]
    recording.restart()
    images += [session.step(action).image for action in actions[5:]]
    last = session.close()
    images += [] if last is None else [last.image]
    np.testing.assert_array_equal(images, uninterrupted(7, **start))
    recording.stop()
    with StreamServer(ToyModel(), bind="tcp://127.0.0.1:0") as server:
        whole = recording.recordings()[-1]
        report = replay(load(whole), server.endpoint)
    assert report.same and report.complete and report.frames == len(images)


def test_server_killed_again_and_again_loses_no_step_and_repeats_none(tmp_path):
    actions, images = drive(40), []
    server = ServerProcess("--record", str(tmp_path))
    try:
        with StreamClient(server.endpoint, timeout_s=TIMEOUT_S, resume_s=30) as client:
            session = client.open(FRAMES, seed=3)
            images.append(session.frame.image)
            for n, action in enumerate(actions, start=1):
                if n % 10 == 0:  # at once after a reply, so that its line may not be written yet
                    server.stop(signal.SIGKILL)
                    server = ServerProcess("--record", str(tmp_path), "--bind", server.endpoint)
                frame = session.step(action)
                assert frame.step == frame.committed_step == n
                images.append(frame.image)
            images.append(session.close().image)
    finally:
        server.process.kill()
        server.process.communicate()
    np.testing.assert_array_equal(images, uninterrupted(40, seed=3))


def test_waiting_client_notices_by_its_heartbeat_that_the_server_was_killed(tmp_path):
    server = ServerProcess("--record", str(tmp_path))
    try:
        with StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as client:
            session = client.open(FRAMES)
            first = session.step(drive(1)[0])
            server.process.send_signal(signal.SIGSTOP)
            for action in drive(3)[1:]:
                session.send_step(action)
            server.stop(signal.SIGKILL)
            server = ServerProcess("--record", str(tmp_path), "--bind", server.endpoint)
            frames = [first, session.receive(), session.receive()]
    finally:
        server.process.kill()
        server.process.communicate()
    assert [frame.step for frame in frames] == [1, 2, 3]
    np.testing.assert_array_equal([f.image for f in frames], uninterrupted(3)[1:-1])


def test_step_that_hangs_when_its_server_is_stopped_is_taken_by_the_next(recording, connected):
    recording.restart(stop_timeout_s=0.1)
    held, entered = threading.Event(), threading.Event()

    def hang(session, step):
        entered.set()
        held.wait(TIMEOUT_S)

    client = connected()
    session = client.open(FRAMES)
    recording.runtime.hooks.predict = hang
    waiting = threading.Thread(target=session.step)
    waiting.start()
    assert entered.wait(TIMEOUT_S)
    recording.restart()
    waiting.join(TIMEOUT_S)
    assert not waiting.is_alive() and session.step().step == 2
    held.set()


def test_reply_that_was_recorded_but_lost_comes_after_the_restart(recording, raw_to):
    raw = raw_to(recording.endpoint)
    opened = raw.ask_open()
    step = {"t": "step", "sid": opened["sid"], "step": 1}
    first = raw.ask(step)
    recording.restart(raw)
    resumed = raw.ask({"t": "resume", "resume_token": opened["resume_token"]})
    assert (resumed["t"], resumed["sid"], resumed["committed_step"]) == ("opened", opened["sid"], 1)
    again = raw.ask(step)
    assert (again["frames"][-1]["step"], again["parts"]) == (1, first["parts"])
    assert raw.ask(step | {"step": 2})["committed_step"] == 2


def test_resuming_twice_and_a_session_that_lives_changes_nothing(recording, raw_to):
    raw = raw_to(recording.endpoint)
    opened = raw.ask_open()
    resume = {"t": "resume", "resume_token": opened["resume_token"]}
    assert raw.ask(resume)["committed_step"] == 0
    recording.restart(raw)
    go = threading.Event()
    recording.runtime.hooks.render = lambda session, step: go.wait(TIMEOUT_S)
    rids = {raw.send(resume) for _ in range(2)}
    assert raw.ask({"t": "heartbeat"})["sessions"] == 1
    go.set()
    replies = [raw.receive(), raw.receive()]
    assert {reply["rid"] for reply in replies} == rids
    assert all(reply["committed_step"] == 0 for reply in replies)
    assert recording.runtime.sessions_open == 1


@pytest.mark.parametrize(
    "token", ["", "x", "0011223344556677", "../../x", "é.é", f"{'a' * 16}.{'0' * 32}"]
)
def test_forged_token_is_refused(recording, raw_to, token):
    raw = raw_to(recording.endpoint)
    reply = raw.ask({"t": "resume", "resume_token": token})
    assert reply["code"] == "NO_SESSION" and "not one of this server's" in reply["message"]


def test_what_cannot_be_resumed_says_why(recording, raw_to):
    raw = raw_to(recording.endpoint)
    closed, other = raw.ask_open(), raw.ask_open()
    raw.ask({"t": "close", "sid": closed["sid"]})
    key = (recording.folder / KEY_FILE).read_bytes()
    never = sign(key, "f" * 16, "")

    def refused(token):
        reply = raw.ask({"t": "resume", "resume_token": token})
        assert reply["code"] == "NO_SESSION", reply
        return reply["message"]

    assert "was closed" in refused(closed["resume_token"])
    recording.restart(raw)
    assert "was closed" in refused(closed["resume_token"])
    assert "was not recorded" in refused(never)
    recording.restart(raw, runtime=ToyModel(toy_spec(weights_sha256="1" * 64)))
    assert "this server runs toy, weights 111" in refused(other["resume_token"])
    for prompt in recording.folder.glob("*.prompt-0.mkv"):
        prompt.unlink()
    recording.restart(raw)
    assert "missing" in refused(other["resume_token"])
    assert raw.ask({"t": "heartbeat"})["sessions"] == recording.runtime.sessions_open == 0


def test_what_the_first_server_chose_stays_whatever_the_next_ones_would(recording, connected):
    session = connected().open(FRAMES)
    images = [session.step(action).image for action in drive(3)[:1]]
    warmer = replace(PRESET, sampling=SamplingConfig(top_k=7, temperature=0.1))
    for action in drive(3)[1:]:
        recording.restart(runtime=ToyModel(toy_spec(warmer)))
        images.append(session.step(action).image)
    np.testing.assert_array_equal(images, uninterrupted(3)[1:-1])


@pytest.mark.parametrize("forms", [("mp4", "mcap"), ("mcap", "ffv1")])
def test_every_format_can_be_resumed_and_gone_on_in(recording, connected, forms):
    if "mcap" in forms:
        pytest.importorskip("mcap")
    recording.restart(form=forms[0])
    session = connected().open(FRAMES)
    images = [session.step(action).image for action in drive(4)[:2]]
    recording.restart(form=forms[1])
    images += [session.step(action).image for action in drive(4)[2:]]
    np.testing.assert_array_equal(images, uninterrupted(4)[1:-1])


def test_token_and_idempotency_key_of_another_clients_key_are_worth_nothing(recording):
    realm = Realm(recording.folder)
    recording.restart(guard=realm.guard())
    with (
        closing(realm.raw(recording, "alice")) as alice,
        closing(realm.raw(recording, "bob")) as bob,
    ):
        opened = alice.ask_open(idempotency_key="k")
        assert bob.ask_open(idempotency_key="k")["sid"] != opened["sid"]
        resume = {"t": "resume", "resume_token": opened["resume_token"]}
        for told in ((), (alice, bob)):
            if told:
                recording.restart(*told, guard=realm.guard())
            refused = bob.ask(resume)
            assert refused["code"] == "NO_SESSION" and "not one of" in refused["message"]
            assert alice.ask(resume)["sid"] == opened["sid"]


def test_frame_that_does_not_come_out_as_recorded_ends_the_resumption(recording, connected):
    session = connected().open(FRAMES)
    session.step()
    session.step()
    other = ToyModel()  # a machine that computes otherwise
    other.hooks.predict = lambda session, step: session.states.append(b"other")
    recording.restart(runtime=other)
    with pytest.raises(RemoteError, match="does not come out as it was recorded"):
        session.step()
    with pytest.raises(SessionClosed):
        session.step()


def test_server_that_does_not_record_gives_no_token_and_refuses(server, raw_to, client):
    raw = raw_to(server.endpoint)
    assert client.info.resume_steps == 0
    assert raw.ask_open()["resume_token"] == ""
    reply = raw.ask({"t": "resume", "resume_token": "x"})
    assert reply["code"] == "LIMIT" and "does not record" in reply["message"]
    assert raw.ask_open(record=True)["code"] == "LIMIT"


def test_session_that_asked_not_to_be_recorded_is_not(recording, raw_to, connected):
    raw = raw_to(recording.endpoint)
    opened = raw.ask_open(record=False)
    fork = raw.ask({"t": "fork", "sid": opened["sid"]})
    raw.ask({"t": "step", "sid": opened["sid"], "step": 1})
    assert opened["resume_token"] == fork["resume_token"] == ""
    session = connected().open(FRAMES, record=False)
    recording.restart()
    with pytest.raises(RemoteError, match="SHUTTING_DOWN"):
        session.step()
    assert not list(recording.folder.glob("*.jsonl"))


def test_token_is_given_when_the_recording_has_begun(recording, raw_to):
    raw = raw_to(recording.endpoint)
    sid = raw.ask_open()["sid"]
    (path,) = recording.folder.glob("*.jsonl")
    assert load(path).header.sid == sid and len(load(path).shown) == 1


def test_resetting_and_forking_survive_restarts(recording, connected):
    client = connected()
    session = client.open(FRAMES)
    for action in drive(3):
        session.step(action)
    recording.restart()
    assert session.reset(prompt_frames(key=2), seed=9).step == 0
    frame = session.step(drive(1)[0])
    recording.restart()
    twin = session.fork()
    recording.restart()
    ours, theirs = session.step(drive(2)[1]), twin.step(drive(2)[1])
    assert (frame.step, ours.step, theirs.step) == (1, 2, 2)
    np.testing.assert_array_equal(ours.image, theirs.image)
    with (
        StreamServer(ToyModel(), bind="tcp://127.0.0.1:0") as server,
        StreamClient(server.endpoint) as other,
        other.open(prompt_frames(key=2), seed=9) as alone,
    ):
        alone.step(drive(1)[0])
        np.testing.assert_array_equal(alone.step(drive(2)[1]).image, ours.image)


def test_steps_that_the_recording_lacks_are_taken_again_from_the_clients_memory(
    recording, connected
):
    session = connected().open(FRAMES, seed=1)
    images = [session.frame.image, *(session.step(action).image for action in drive(6)[:5])]
    recording.stop()
    (path,) = recording.folder.glob("*.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]) + lines[4][:9])  # killed while it wrote step 3
    recording.start()
    images.append(session.step(drive(6)[5]).image)
    images.append(session.close().image)
    np.testing.assert_array_equal(images, uninterrupted(6, seed=1))
    recording.stop()
    assert [
        frame.step for line in load(recording.recordings()[-1]).shown for frame in line.frames
    ] == [*range(7), 6]


def test_steps_beyond_the_clients_memory_are_reported_lost(recording, connected, monkeypatch):
    monkeypatch.setattr("sim_stream.wire.server.server.RESUME_STEPS", 4)
    recording.restart()
    session = connected().open(FRAMES)
    for _ in range(4 + 3):
        session.step()
    recording.stop()
    (path,) = recording.folder.glob("*.jsonl")
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:4]))  # up to step 2
    recording.start()
    with pytest.raises(RemoteError, match=r"ends with step 2.*remembers the steps after 3"):
        session.step()


def test_server_that_left_and_does_not_come_back_is_given_up_within_the_time(recording, connected):
    session = connected(timeout_s=0.5, resume_s=0.5).open(FRAMES)
    recording.stop()
    started_s = time.monotonic()
    with pytest.raises(RemoteError, match="SHUTTING_DOWN"):
        session.step()
    assert 0.5 <= time.monotonic() - started_s < 5.0
    with pytest.raises(SessionClosed):
        session.step()


def test_long_session_is_waited_for_as_long_as_its_server_moves(recording, connected):
    session = connected(timeout_s=1.0, resume_s=1.0).open(FRAMES)
    for _ in range(60):
        session.step()
    slow = ToyModel()
    slow.hooks.predict = lambda session, step: time.sleep(0.05)
    recording.restart(runtime=slow)  # 3 s at least
    assert session.step().step == 61


def test_resume_s_of_zero_ends_sessions_with_their_server(recording, connected):
    session = connected(resume_s=0).open(FRAMES)
    recording.restart()
    with pytest.raises(RemoteError, match="SHUTTING_DOWN"):
        session.step()
    with pytest.raises(InvalidInput, match="resume_s"):
        StreamClient(resume_s=-1)


def test_hung_engine_is_no_restart(recording, connected):
    session = connected(timeout_s=2.0, busy_s=2.0).open(FRAMES)
    go = threading.Event()
    recording.runtime.hooks.predict = lambda session, step: go.wait(TIMEOUT_S)
    with pytest.raises(ConnectionLost):
        session.step()
    go.set()
    assert session.in_flight == 1 and session.receive().step == 1


def test_sessions_of_many_tasks_survive_a_restart(recording):
    async def drive_through(client, seed, half, go_on):
        session = await client.open(FRAMES, seed=seed)
        images = [session.frame.image]
        images += [(await session.step(action)).image for action in drive(6)[:3]]
        half.release()
        await go_on.wait()
        images += [(await session.step(action)).image for action in drive(6)[3:]]
        return [*images, (await session.close()).image]

    async def main():
        half, go_on = asyncio.Semaphore(0), asyncio.Event()
        async with AsyncStreamClient(recording.endpoint, timeout_s=TIMEOUT_S) as client:
            drives = [
                asyncio.create_task(drive_through(client, seed, half, go_on)) for seed in range(3)
            ]
            for _ in drives:
                await half.acquire()
            await asyncio.to_thread(recording.restart)
            go_on.set()
            return await asyncio.gather(*drives)

    for seed, images in enumerate(asyncio.run(main())):
        np.testing.assert_array_equal(images, uninterrupted(6, seed=seed))


def test_recording_that_falls_too_far_behind_is_given_up(recording, connected, monkeypatch):
    monkeypatch.setattr("sim_stream.recording.recorder.RESUME_STEPS", 4)
    go = threading.Event()
    session = connected().open(FRAMES)
    add = SessionRecording.add

    def slow(self, exchange):
        go.wait(TIMEOUT_S)
        add(self, exchange)

    monkeypatch.setattr(SessionRecording, "add", slow)
    assert [session.step().step for _ in range(20)] == [*range(1, 21)]
    go.set()
    recording.restart()
    with pytest.raises(RemoteError, match="too slow"):
        session.step()


def test_key_is_its_owners_alone_and_stays(tmp_path):
    first = RecordedSessions(tmp_path).key
    assert RecordedSessions(tmp_path).key == first and len(first) == 32
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]


def test_other_sessions_go_on_while_one_is_rebuilt(recording, raw_to, connected):
    client = connected()
    long = client.open(FRAMES)
    for action in drive(4):
        long.step(action)
    recording.restart()
    stuck = threading.Event()

    def passes(session):
        if session.committed_step != 1:
            return 1
        stuck.set()
        return 10**9

    recording.runtime.hooks.passes = passes
    raw = raw_to(recording.endpoint)
    raw.send({"t": "resume", "resume_token": long._stream._resume_state._token})
    assert stuck.wait(TIMEOUT_S)
    recording.runtime.hooks.passes = lambda session: 1
    with connected().open(FRAMES, seed=9) as other:
        assert [other.step().step for _ in range(3)] == [1, 2, 3]
    assert not raw.socket.poll(50)
    recording.runtime.passes += 10**9
    assert raw.receive()["committed_step"] == 4


class SlowArchive(RecordedSessions):
    """Reads a recording when it is let, and remembers how many were being read at once."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.go, self.reading = threading.Event(), threading.Event()
        self.at_once, self.most, self.read = 0, 0, 0

    def find(self, sid: str, *, model_id: str, weights_sha256: str) -> Past:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        self.reading.set()
        assert self.go.wait(TIMEOUT_S)
        try:
            return super().find(sid, model_id=model_id, weights_sha256=weights_sha256)
        finally:
            self.at_once, self.read = self.at_once - 1, self.read + 1


def test_other_sessions_go_on_while_recordings_are_read_one_after_another(
    recording, raw_to, connected
):
    raw = raw_to(recording.endpoint)
    tokens = [raw.ask_open()["resume_token"] for _ in range(3)]
    archive = SlowArchive(recording.folder)
    recording.restart(raw, archive=archive)
    rids = [raw.send({"t": "resume", "resume_token": token}) for token in tokens]
    repeated = [raw.send({"t": "resume", "resume_token": tokens[0]}) for _ in range(3)]
    assert archive.reading.wait(TIMEOUT_S)
    with connected().open(FRAMES) as bystander:
        assert [bystander.step().step for _ in range(20)] == [*range(1, 21)]
    assert (archive.most, archive.read) == (1, 0)
    archive.go.set()
    replies = [raw.receive() for _ in rids + repeated]
    assert {reply["rid"] for reply in replies} == {*rids, *repeated}
    assert {reply["t"] for reply in replies} == {"opened"}
    assert (archive.most, archive.read) == (1, 3)


def test_server_is_stopped_while_recordings_are_read(recording, raw_to):
    raw = raw_to(recording.endpoint)
    tokens = [raw.ask_open()["resume_token"] for _ in range(2)]
    archive = SlowArchive(recording.folder)
    recording.restart(raw, archive=archive)
    rids = [raw.send({"t": "resume", "resume_token": token}) for token in tokens]
    assert archive.reading.wait(TIMEOUT_S)
    stopping = threading.Thread(target=recording.stop)
    stopping.start()
    refused = raw.receive()  # the one that waits; the shutdown notice is for the one in hand
    assert (refused["rid"], refused["code"]) == (rids[1], "SHUTTING_DOWN")
    assert raw.receive()["rid"] == 0
    archive.go.set()
    stopping.join(TIMEOUT_S)
    assert not stopping.is_alive()
    recording.start()
    for token in tokens:
        assert raw.ask({"t": "resume", "resume_token": token})["committed_step"] == 0


def test_session_survives_two_hundred_restarts(recording, raw_to):
    opened = raw_to(recording.endpoint).ask_open(lookahead=0)
    step = {"t": "step", "sid": opened["sid"]}
    taken = 0
    for restart in range(200):
        recording.restart()
        with closing(RawClient(recording.endpoint)) as raw:  # which needs no time to come back
            resumed = raw.ask({"t": "resume", "resume_token": opened["resume_token"]})
            assert (resumed["t"], resumed["committed_step"]) == ("opened", taken)
            if restart % 50 == 0:
                taken += 1
                assert raw.ask(step | {"step": taken})["committed_step"] == taken
    recording.stop()
    assert len(list(recording.folder.glob("*.jsonl"))) == 201
    (last,) = recording.folder.glob("*-200.jsonl")
    with StreamServer(ToyModel(), bind="tcp://127.0.0.1:0") as server:
        report = replay(load(last), server.endpoint)
    assert report.same and report.frames == 5
    recording.start()


def test_fork_of_a_fork_two_hundred_deep_is_resumed(recording, raw_to):
    raw = raw_to(recording.endpoint)
    newest = raw.ask_open()
    for depth in range(200):
        sid = newest["sid"]
        raw.ask({"t": "step", "sid": sid, "step": depth + 1})
        newest = raw.ask({"t": "fork", "sid": sid})
        assert newest["committed_step"] == depth + 1
        raw.ask({"t": "close", "sid": sid})
    recording.restart(raw)
    resumed = raw.ask({"t": "resume", "resume_token": newest["resume_token"]})
    assert (resumed["sid"], resumed["committed_step"]) == (newest["sid"], 200)
    assert raw.ask({"t": "step", "sid": newest["sid"], "step": 201})["committed_step"] == 201
