"""Who may connect and what they may do, over real CURVE sockets: keys, lists, owners, limits."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import resource
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import zmq
import zmq.auth

from sim_stream.errors import ConnectionLost, InvalidInput, RemoteError
from sim_stream.recording.load import load
from sim_stream.recording.recorder import Recorder
from sim_stream.recording.replay import replay
from sim_stream.wire.client.async_client import AsyncStreamClient
from sim_stream.wire.client.async_connection import AsyncConnection
from sim_stream.wire.client.blocking_client import StreamClient
from sim_stream.wire.keys import ClientKeys, read_pair, write_pair
from sim_stream.wire.messages import Hello
from sim_stream.wire.server import io_loop
from sim_stream.wire.server.auth import AllowList, Guard
from sim_stream.wire.server.rates import RateLimit
from sim_stream.wire.server.server import StreamServer
from tests.recording.conftest import recorded
from tests.wire.conftest import ROOT, TIMEOUT_S, RawClient
from tests.wire.toy import drive, prompt_frames

# What a client waits that is to get no answer at all.
SHORT_S = 1.0


class Realm:
    """A folder of key files: a server's, an allow-list of alice and bob, and mallory outside it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.allow = folder, folder / "clients"
        self.allow.mkdir()
        for name in ("server", "alice", "bob", "mallory"):
            write_pair(folder / name)
        self.let_in("alice")
        self.let_in("bob")

    def secret(self, name: str) -> Path:
        return self.folder / f"{name}.secret"

    def public(self, name: str) -> Path:
        return self.folder / f"{name}.pub"

    def let_in(self, name: str) -> None:
        (self.allow / f"{name}.pub").write_text(self.public(name).read_text())

    def guard(self) -> Guard:
        guard = Guard.load(self.secret("server"), self.allow)
        assert guard is not None
        return guard

    def keys(self, name: str) -> dict[str, Path]:
        return {"key": self.secret(name), "server_key": self.public("server")}

    def client(self, server: StreamServer, name: str) -> StreamClient:
        return StreamClient(server.endpoint, timeout_s=TIMEOUT_S, **self.keys(name))

    def raw(self, server: StreamServer, name: str) -> RawClient:
        keys = ClientKeys.load(**self.keys(name))
        assert keys is not None
        return RawClient(server.endpoint, keys)


@pytest.fixture
def realm(tmp_path):
    return Realm(tmp_path)


@pytest.fixture
def guarded(serve, realm):
    return serve(guard=realm.guard())


@pytest.fixture
def alice(guarded, realm):
    with realm.client(guarded, "alice") as client:
        yield client


def no_session(call) -> bool:
    with pytest.raises(RemoteError, match="NO_SESSION") as refused:
        call()
    return refused.value.committed_step == -1


# Who gets in.


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_a_listed_key_gets_the_frames_that_an_open_server_gives(serve, realm, tmp_path, transport):
    address = "tcp://127.0.0.1:0" if transport == "tcp" else f"ipc://{tmp_path}/s"
    with (
        realm.client(serve(bind=address, guard=realm.guard()), "alice") as client,
        StreamClient(serve().endpoint, timeout_s=TIMEOUT_S) as plain,
        client.open(prompt_frames()) as session,
        plain.open(prompt_frames()) as twin,
    ):
        for action in drive(3):
            np.testing.assert_array_equal(session.step(action).image, twin.step(action).image)


def test_an_unlisted_key_is_refused_at_once_and_told_why(guarded, realm, caplog):
    with pytest.raises(RemoteError, match="does not know this client's key") as refused:
        realm.client(guarded, "mallory")
    assert (refused.value.code, refused.value.retryable) == ("UNAUTHENTICATED", False)
    assert read_pair("key", realm.secret("mallory")).public in caplog.text


def test_a_client_without_a_key_is_refused_at_once_and_told_why(guarded):
    with pytest.raises(RemoteError, match="UNAUTHENTICATED: the server asks for keys"):
        StreamClient(guarded.endpoint, timeout_s=TIMEOUT_S)


def test_a_client_with_keys_learns_that_the_server_has_none(server, realm):
    with pytest.raises(RemoteError, match="UNAUTHENTICATED: this client has keys and the server"):
        realm.client(server, "alice")


def test_a_server_that_breaks_zeromqs_protocol_is_not_said_to_want_keys():
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
    hostile = greeting + b"\x04\x06\x05READZ"  # no command of a handshake

    def answer():
        connection, _ = listener.accept()
        with connection:
            connection.sendall(hostile)
            while connection.recv(4096):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=answer)
        server.start()
        with pytest.raises(RemoteError, match="it is no sim-stream server"):
            StreamClient(f"tcp://127.0.0.1:{listener.getsockname()[1]}", timeout_s=TIMEOUT_S)
        server.join(TIMEOUT_S)


def test_another_servers_key_is_named_as_the_probable_cause(guarded, realm):
    keys = realm.keys("alice") | {"server_key": realm.public("bob")}
    with pytest.raises(ConnectionLost, match=r"within 1 s: .*server_key is not its public key"):
        StreamClient(guarded.endpoint, timeout_s=SHORT_S, **keys)


@pytest.mark.parametrize(
    ("keys", "says", "timeout_s"),
    [
        ({"key": "mallory", "server_key": "server"}, "does not know this client's key", TIMEOUT_S),
        ({}, "the server asks for keys", TIMEOUT_S),
        ({"key": "alice", "server_key": "bob"}, "server_key is not its public key", SHORT_S),
    ],
)
def test_an_asyncio_client_is_told_the_same(guarded, realm, keys, says, timeout_s):
    files = {
        name: realm.secret(whose) if name == "key" else realm.public(whose)
        for name, whose in keys.items()
    }

    async def connect():
        async with AsyncStreamClient(guarded.endpoint, timeout_s=timeout_s, **files):
            pass

    with pytest.raises(RemoteError, match=says):
        asyncio.run(connect())


def test_an_asyncio_client_hears_of_a_refusal_while_it_waits_to_send(guarded, realm, monkeypatch):
    feed, events = AsyncConnection._feed, []

    async def main():
        monkeypatch.setattr(AsyncConnection, "_feed", lambda self, event: events.append(event))
        keys = ClientKeys.load(**realm.keys("mallory"))
        connection = AsyncConnection(guarded.endpoint, timeout_s=1000 * TIMEOUT_S, keys=keys)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while connection._socket.get(zmq.EVENTS) & zmq.POLLOUT:  # not yet shut out
                    await asyncio.sleep(0.01)
            sending = asyncio.create_task(connection.send(Hello(), anew=True))
            await asyncio.sleep(0.1)
            assert not sending.done()
            for event in events:
                feed(connection, event)
            async with asyncio.timeout(TIMEOUT_S):
                with pytest.raises(RemoteError, match="does not know this client's key"):
                    await sending
        finally:
            await connection.close()

    asyncio.run(main())


def test_an_asyncio_client_drives_with_its_key(guarded, realm):
    async def steps():
        keys = realm.keys("alice")
        async with (
            AsyncStreamClient(guarded.endpoint, timeout_s=TIMEOUT_S, **keys) as client,
            await client.open(prompt_frames()) as session,
        ):
            return [(await session.step(action)).step for action in drive(2)]

    assert asyncio.run(steps()) == [1, 2]


def test_a_client_whose_own_files_do_not_match_is_refused_before_it_connects(realm):
    secret = realm.secret("alice")
    other = read_pair("key", realm.secret("bob")).public
    text = secret.read_text().replace(read_pair("key", secret).public, other)
    secret.write_text(text)
    with pytest.raises(InvalidInput, match="belongs to the secret one"):
        StreamClient("tcp://127.0.0.1:1", **realm.keys("alice"))


def test_a_client_refused_in_mid_session_says_so_and_goes_on_when_it_is_let_in(
    serve, runtime, realm
):
    server = serve(guard=realm.guard())
    with realm.client(server, "alice") as client:
        session = client.open(prompt_frames())
        server.stop()
        (realm.allow / "alice.pub").unlink()
        with StreamServer(runtime, bind=server.endpoint, guard=realm.guard()):
            with pytest.raises(RemoteError, match="SHUTTING_DOWN"):
                session.step()
            with pytest.raises(RemoteError, match="UNAUTHENTICATED"):
                client.open(prompt_frames())
            realm.let_in("alice")
            with client.open(prompt_frames()) as again:
                assert again.step().step == 1


def test_the_list_is_read_again_for_new_connections(guarded, realm, alice):
    with pytest.raises(RemoteError, match="UNAUTHENTICATED"):
        realm.client(guarded, "mallory")
    realm.let_in("mallory")
    with realm.client(guarded, "mallory") as client:
        assert client.info.spec.model_id == "toy"


def test_a_key_taken_off_the_list_is_refused_on_its_open_connection(guarded, realm, alice):
    session = alice.open(prompt_frames())
    (realm.allow / "alice.pub").unlink()
    deadline_s = time.monotonic() + TIMEOUT_S
    with pytest.raises(RemoteError, match=r"UNAUTHENTICATED: key: got .* not allowed"):
        while time.monotonic() < deadline_s:
            session.step()
            time.sleep(0.05)
    with realm.client(guarded, "bob") as bob:
        assert bob.info.spec.model_id == "toy"


def test_nobody_gets_in_when_the_authenticator_has_ended(serve, realm):
    guard = realm.guard()
    server = serve(guard=guard, publish="tcp://127.0.0.1:0")
    guard.stop()
    with pytest.raises(ConnectionLost):
        StreamClient(server.endpoint, timeout_s=SHORT_S, **realm.keys("alice"))


def test_viewers_need_a_key_too(serve, realm):
    server = serve(guard=realm.guard(), publish="tcp://127.0.0.1:0")
    with (
        zmq.Context() as context,
        viewer(server, context, realm, "alice") as welcome,
        viewer(server, context, realm, "mallory") as unlisted,
        viewer(server, context, realm, None) as without,
        realm.client(server, "alice") as client,
        client.open(prompt_frames()) as session,
    ):
        for _ in range(200):
            session.step()
            if welcome.poll(20):
                break
        assert welcome.poll(0) and not unlisted.poll(200) and not without.poll(0)


def viewer(server, context, realm, name):
    watching = context.socket(zmq.SUB)
    watching.linger = 0
    watching.subscribe(b"")
    if name is not None:
        ClientKeys.load(**realm.keys(name)).secure(watching)
    watching.connect(server.publish_endpoint)
    return watching


def test_a_recording_replays_on_a_guarded_server(guarded, realm, tmp_path):
    keys = realm.keys("alice")
    with (
        Recorder(tmp_path, by="client") as recorder,
        StreamClient(guarded.endpoint, timeout_s=TIMEOUT_S, observer=recorder, **keys) as client,
        client.open(prompt_frames()) as session,
    ):
        session.step()
    assert replay(load(recorded(tmp_path)), guarded.endpoint, **keys).same


# Whose session it is.


@pytest.mark.parametrize("request_type", ["step", "fork", "heartbeat", "reset"])
def test_a_session_does_not_exist_for_another_key(guarded, realm, alice, request_type):
    session = alice.open(prompt_frames())
    session.step()
    thief = realm.raw(guarded, "bob")
    frames = prompt_frames()
    spec = {"name": "frames", "dtype": "|u1", "shape": list(frames.shape), "nbytes": frames.nbytes}
    arrays = ([spec], [frames.tobytes()]) if request_type == "reset" else ([], [])
    stolen = {"t": request_type, "sid": session.sid, "step": 2, "arrays": arrays[0]}
    reply = thief.ask(stolen, *arrays[1])
    unknown = thief.ask(stolen | {"sid": "0" * 16}, *arrays[1])
    thief.close()
    assert (reply["code"], reply["committed_step"]) == ("NO_SESSION", -1)
    assert reply["message"].replace(session.sid, "0" * 16) == unknown["message"]
    assert session.step().step == 2


def test_a_fork_belongs_to_the_key_that_made_it(guarded, realm, alice):
    twin = alice.open(prompt_frames()).fork()
    thief = realm.raw(guarded, "bob")
    assert thief.ask({"t": "step", "sid": twin.sid, "step": 1})["code"] == "NO_SESSION"
    thief.close()
    assert twin.step().step == 1


def test_an_idempotency_key_is_the_one_that_this_client_chose(guarded, realm, alice):
    first, other = realm.raw(guarded, "alice"), realm.raw(guarded, "bob")
    hers, his = first.ask_open(idempotency_key="k"), other.ask_open(idempotency_key="k")
    again = first.ask_open(idempotency_key="k")
    assert hers["t"] == his["t"] == "opened"
    assert again["sid"] == hers["sid"] != his["sid"]
    first.close()
    other.close()


def test_another_key_can_neither_close_a_session_nor_ask_for_its_last_frame(guarded, realm, alice):
    session = alice.open(prompt_frames())
    session.step()
    thief = realm.raw(guarded, "bob")
    before = thief.ask({"t": "close", "sid": session.sid})
    assert session.step().step == 2
    assert session.close() is not None
    after = thief.ask({"t": "close", "sid": session.sid})
    thief.close()
    for reply in (before, after):
        assert (reply["t"], reply["committed_step"], reply["parts"]) == ("closed", -1, [])


def test_a_malformed_request_does_not_show_another_keys_progress(guarded, realm, alice):
    session = alice.open(prompt_frames())
    session.step()
    thief = realm.raw(guarded, "bob")
    reply = thief.ask({"t": "step", "sid": session.sid, "step": 2, "inputs": "left"})
    thief.close()
    assert (reply["code"], reply["committed_step"]) == ("BAD_MESSAGE", -1)


def test_a_session_goes_on_over_another_connection_of_the_same_key(guarded, realm, alice):
    session = alice.open(prompt_frames())
    second = realm.raw(guarded, "alice")
    assert second.ask({"t": "step", "sid": session.sid, "step": 1})["t"] == "frames"
    second.close()


# Limits.


def test_one_key_cannot_take_all_sessions(serve, realm):
    server = serve(guard=realm.guard(), max_sessions=3, max_sessions_per_key=2)
    with realm.client(server, "alice") as alice, realm.client(server, "bob") as bob:
        first = alice.open(prompt_frames())
        twin = first.fork()
        with pytest.raises(RemoteError, match="LIMIT: 2 sessions are open with this key"):
            alice.open(prompt_frames())
        with pytest.raises(RemoteError, match="LIMIT: 2 sessions are open with this key"):
            first.fork()
        assert bob.open(prompt_frames()).step().step == 1
        first.close()
        assert alice.open(prompt_frames()).step().step == twin.step().step == 1


def test_a_flood_of_heartbeats_is_refused_and_disturbs_nobody(serve):
    server = serve(requests_per_s=20)
    flooder, other = RawClient(server.endpoint), RawClient(server.endpoint)
    sid = other.open()
    for _ in range(200):
        flooder.send({"t": "heartbeat"})
    replies = [flooder.receive() for _ in range(200)]
    assert [reply["rid"] for reply in replies] == list(range(1, 201))  # each has its answer
    refused = [reply for reply in replies if reply["t"] == "error"]
    # Two seconds' worth at once; 20 more a second while they were read.
    assert 40 <= 200 - len(refused) <= 120
    assert all(reply["code"] == "BUSY" and reply["retryable"] for reply in refused)
    assert "more than 20 a second; wait " in refused[0]["message"]
    assert other.ask({"t": "step", "sid": sid, "step": 1})["t"] == "frames"
    flooder.close()
    other.close()


def test_nothing_is_read_for_a_while_after_a_request_that_came_too_soon(serve, monkeypatch):
    monkeypatch.setattr(io_loop, "REST_MS", 60_000)
    server = serve(requests_per_s=1)
    hasty, other = RawClient(server.endpoint), RawClient(server.endpoint)
    assert other.ask({"t": "heartbeat"})["t"] == "status"
    while hasty.ask({"t": "heartbeat"})["t"] == "status":
        pass
    other.send({"t": "heartbeat"})
    assert not other.socket.poll(200)
    server.stop()  # wakes it
    hasty.close()
    other.close()


def test_the_rate_is_the_keys_however_many_connections_it_has(serve, realm):
    server = serve(guard=realm.guard(), requests_per_s=5)  # ten at once: more than each sends
    several = [realm.raw(server, "alice") for _ in range(4)]
    replies = [raw.ask({"t": "heartbeat"}) for _ in range(8) for raw in several]
    bob = realm.raw(server, "bob")
    assert bob.ask({"t": "heartbeat"})["t"] == "status"
    for raw in (*several, bob):
        raw.close()
    assert "BUSY" in [reply.get("code") for reply in replies]


def test_malformed_messages_count_as_requests(serve):
    raw = RawClient(serve(requests_per_s=1).endpoint)
    replies = [raw.ask(b"\xc1") for _ in range(20)]
    assert {reply["code"] for reply in replies} == {"BAD_MESSAGE"}
    assert raw.ask({"t": "heartbeat"})["code"] == "BUSY"
    raw.close()


def test_a_refused_request_succeeds_after_the_wait(serve):
    server = serve(requests_per_s=20)
    raw = RawClient(server.endpoint)
    while raw.ask({"t": "heartbeat"})["t"] == "status":
        pass
    time.sleep(0.1)  # longer than a twentieth of a second
    assert raw.ask({"t": "heartbeat"})["t"] == "status"
    raw.close()


def test_a_rate_limit_fills_up_with_time_and_forgets_the_silent():
    limit = RateLimit(10, burst_s=0.2, peers_kept=3)
    assert [limit.wait_s(b"a", 0) for _ in range(3)] == [0.0, 0.0, pytest.approx(0.1)]
    assert limit.wait_s(b"a", 50_000_000) == pytest.approx(0.05)
    assert limit.wait_s(b"a", 100_000_000) == 0.0
    for peer in range(1000):
        limit.wait_s(str(peer).encode(), 0)
    assert len(limit) == 3


@pytest.mark.parametrize(
    "options",
    [{"max_sessions_per_key": 0}, {"max_sessions_per_key": 1}, {"requests_per_s": 0.0}],
)
def test_impossible_limits_are_refused(runtime, options):
    with pytest.raises(InvalidInput, match=next(iter(options))):
        StreamServer(runtime, **options)


# Addresses and files.


def test_a_guarded_server_binds_beyond_loopback(serve, realm):
    server = serve(bind="tcp://0.0.0.0:0", publish="tcp://*:0", guard=realm.guard())
    port = server.endpoint.rpartition(":")[2]
    with StreamClient(f"tcp://127.0.0.1:{port}", timeout_s=TIMEOUT_S, **realm.keys("alice")) as it:
        assert it.info.spec.model_id == "toy"


def test_a_guard_is_one_servers_and_guards_it_again_after_a_restart(serve, realm):
    guard = realm.guard()
    server = serve(guard=guard)
    with pytest.raises(InvalidInput, match="one of its own for each server"):
        serve(guard=guard)
    server.stop()
    server.start()
    with realm.client(server, "alice") as client:
        assert client.info.spec.model_id == "toy"


@pytest.mark.parametrize(("given", "missing"), [("key", "allow"), ("allow", "key")])
def test_a_key_needs_an_allow_list_and_the_other_way_round(realm, given, missing):
    files = {"key": realm.secret("server"), "allow": realm.allow} | {missing: None}
    with pytest.raises(InvalidInput, match=f"^{missing}: got none"):
        Guard.load(**files)


@pytest.mark.parametrize(("given", "missing"), [("key", "server_key"), ("server_key", "key")])
def test_a_client_needs_both_files(realm, given, missing):
    with pytest.raises(InvalidInput, match=f"^{missing}: got none"):
        StreamClient("tcp://127.0.0.1:1", **(realm.keys("alice") | {missing: None}))


def test_an_allow_list_may_be_one_file(serve, realm):
    listed = realm.folder / "allowed"
    listed.write_text("".join(realm.public(name).read_text() for name in ("alice", "mallory")))
    server = serve(guard=Guard.load(realm.secret("server"), listed))
    for name in ("alice", "mallory"):
        with realm.client(server, name) as client:
            assert client.info.spec.model_id == "toy"
    with pytest.raises(RemoteError, match="UNAUTHENTICATED"):
        realm.client(server, "bob")


def broken_list(realm: Realm, how: str) -> Path:
    if how == "missing":
        return realm.folder / "nowhere"
    if how == "secret":
        return realm.secret("bob")
    path = realm.allow / "broken.pub"
    path.write_bytes(b"public-key = short\n" if how == "short" else b"\xff\xfe\x00")
    return realm.allow


@pytest.mark.parametrize("how", ["missing", "secret", "short", "binary"])
def test_an_allow_list_that_is_none_is_refused(realm, how):
    with pytest.raises(InvalidInput, match=r"^allow: got"):
        Guard.load(realm.secret("server"), broken_list(realm, how))


def test_a_list_that_breaks_while_the_server_runs_shuts_out_what_it_cannot_read(
    guarded, realm, caplog
):
    broken_list(realm, "short")
    (realm.allow / "alice.pub").write_text("public-key = gone\n")
    with pytest.raises(RemoteError, match="UNAUTHENTICATED"):
        realm.client(guarded, "alice")
    assert "not allowed: allow: got" in caplog.text
    with realm.client(guarded, "bob") as client:
        assert client.info.spec.model_id == "toy"


@pytest.mark.parametrize("form", ["folder", "file"])
def test_a_list_that_cannot_be_opened_now_stays_as_it_was(realm, caplog, form):
    path = realm.allow if form == "folder" else realm.folder / "allowed"
    alice, mallory = (read_pair("key", realm.secret(name)).public for name in ("alice", "mallory"))
    if form == "file":
        path.write_text(realm.public("alice").read_text())
    allow_list = AllowList(path)
    if form == "file":
        path.write_text(realm.public("alice").read_text() + realm.public("mallory").read_text())
    realm.let_in("mallory")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        during = [allow_list.holds(key, at_once=True) for key in (alice, mallory)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert during == [True, False] and "as it was" in caplog.text
    assert allow_list.holds(mallory, at_once=True)


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_a_secret_that_others_can_read_is_refused(realm):
    realm.secret("alice").chmod(0o640)
    with pytest.raises(InvalidInput, match=r"mode 0640; allowed: 0600; chmod 600"):
        StreamClient("tcp://127.0.0.1:1", **realm.keys("alice"))


def test_a_key_file_is_zmq_auths_certificate(realm):
    public, secret = zmq.auth.load_certificate(realm.secret("alice"))
    assert secret is not None and zmq.curve_public(secret) == public
    assert zmq.auth.load_certificate(realm.public("alice")) == (public, None)


def test_a_secret_key_is_never_shown(realm):
    pair = read_pair("key", realm.secret("alice"))
    assert pair.secret not in repr(pair) and pair.secret not in repr(
        ClientKeys.load(**realm.keys("alice"))
    )


# keygen.


def keygen(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sim_stream", "keygen", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_keygen_writes_a_pair_that_only_its_owner_can_read(tmp_path):
    done = keygen(tmp_path / "server", "--json")
    said = json.loads(done.stdout)
    assert (done.returncode, Path(said["secret"])) == (0, tmp_path / "server.secret")
    assert stat.S_IMODE(Path(said["secret"]).stat().st_mode) == 0o600
    pair = read_pair("key", tmp_path / "server.secret")
    assert pair.public == said["public_key"] and pair.secret not in done.stdout + done.stderr
    assert pair.secret not in Path(said["public"]).read_text()


@pytest.mark.parametrize("there", ["a.secret", "a.pub"])
def test_keygen_overwrites_nothing(tmp_path, there):
    (tmp_path / there).write_text("mine")
    done = keygen(tmp_path / "a")
    assert done.returncode == 2 and f"{there} exists" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "mine"


def test_keygen_into_a_folder_that_is_not_there_is_one_line(tmp_path):
    done = keygen(tmp_path / "no" / "a")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "folder" in done.stderr


def test_serve_refuses_an_open_address_before_it_loads_a_model(realm):
    command = [sys.executable, "-m", "sim_stream", "serve", "--bind", "tcp://0.0.0.0:0"]
    command += ["--weights", str(realm.folder / "none")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "CURVE" in done.stderr and "keygen" in done.stderr


# Nothing is ever unpickled.

# What can run code that came in as data.
UNSAFE = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "torch"}
UNSAFE |= {"recv_pyobj", "send_pyobj", "allow_pickle"}


def unsafe_names(source: str) -> set[str]:
    """Of modules imported, attributes and keyword arguments."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=aliases):
                names |= {alias.name.split(".")[0] for alias in aliases}
            case ast.ImportFrom(module=str(module)):
                names.add(module.split(".")[0])
            case ast.Attribute(attr=name) | ast.keyword(arg=str(name)):
                names.add(name)
    return names & UNSAFE


@pytest.mark.parametrize("part", ["wire", "recording"])
def test_nothing_that_comes_in_is_ever_unpickled(part):
    files = sorted((ROOT / "sim_stream" / part).glob("*.py"))
    assert len(files) > 5
    assert {path.name: unsafe_names(path.read_text()) for path in files} == {
        path.name: set() for path in files
    }
    hostile = "import pickle.x\nfrom dill import loads\ns.recv_pyobj()\nload(f, allow_pickle=True)"
    assert unsafe_names(hostile) == {"pickle", "dill", "recv_pyobj", "allow_pickle"}
