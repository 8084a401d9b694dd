"""A client is its process's, one thread's at a time, and nobody's twice."""

from __future__ import annotations

import asyncio
import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest

from sim_stream.errors import InvalidInput, WrongOwner
from sim_stream.wire.client.async_client import AsyncStreamClient
from sim_stream.wire.client.blocking_client import StreamClient
from tests.wire.conftest import ROOT, TIMEOUT_S
from tests.wire.toy import drive, prompt_frames

FRAMES = prompt_frames()
FORK = multiprocessing.get_context("fork")
# A fork of a process with threads may dead-lock, says Python 3.12; the children here do little.
# JAX says the same, where another test of this process has used it.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:os.fork.. was called:RuntimeWarning"),
]


def in_a_fork(work) -> object:
    """What the work returns or raises in a forked process, within the timeout."""

    def child(pipe):
        try:
            pipe.send(work())
        except Exception as error:
            pipe.send(error)

    here, there = FORK.Pipe()
    process = FORK.Process(target=child, args=(there,))
    process.start()
    try:
        assert here.poll(TIMEOUT_S), "the child hangs"
        return here.recv()
    finally:
        process.join(TIMEOUT_S)
        alive = process.is_alive()
        process.kill()
        assert not alive, "the child does not end"


def test_every_call_in_a_forked_process_is_refused_by_name_and_the_parent_goes_on(client):
    session, twin = client.open(FRAMES), client.open(FRAMES)
    session.send_step(drive(1)[0])
    calls = {
        "step": session.step,
        "send_step": session.send_step,
        "receive": session.receive,
        "ready": session.ready,
        "reset": lambda: session.reset(FRAMES),
        "fork": session.fork,
        "session status": session.status,
        "open": lambda: client.open(FRAMES),
        "status": client.status,
    }
    for name, call in calls.items():
        error = in_a_fork(call)
        assert isinstance(error, WrongOwner), (name, error)
        assert f"process {os.getpid()}" in str(error)
    frame = session.receive()
    np.testing.assert_array_equal(frame.image, twin.step(drive(1)[0]).image)


def test_closing_and_dropping_in_a_forked_process_is_harmless(client):
    session = client.open(FRAMES)

    def leave():
        with client:
            assert session.close() is None
            assert session.abandon() is False
        client.close()
        return "left"

    assert in_a_fork(leave) == "left"

    def fail():
        with client, session:
            raise ZeroDivisionError

    assert isinstance(in_a_fork(fail), ZeroDivisionError)
    assert client.status().sessions == 1
    assert session.step().step == 1


FORKING = """
import os, sys
from sim_stream import StreamClient
from tests.wire.toy import prompt_frames
client = StreamClient({endpoint!r})
session = client.open(prompt_frames())
child = os.fork()
if child == 0:
    del session
    sys.exit(3)  # with all that Python does at exit
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(session.step().step, client.status().sessions)
"""


def test_a_child_that_ends_as_programs_end_leaves_the_parents_sessions_alone(server):
    program = FORKING.format(endpoint=server.endpoint)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["3", "1", "1"], done.stderr


def test_a_forked_process_makes_a_client_of_its_own(server, client):
    def drive_alone():
        with StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as own, own.open(FRAMES) as session:
            return session.step().step

    session = client.open(FRAMES)
    assert in_a_fork(drive_alone) == 1
    assert session.step().step == 1


def test_an_asyncio_client_in_a_forked_process_is_refused_by_name(server):
    async def main():
        async with AsyncStreamClient(server.endpoint, timeout_s=TIMEOUT_S) as client:
            session = await client.open(FRAMES)

            def step():
                return asyncio.new_event_loop().run_until_complete(session.step())

            def leave():
                asyncio.new_event_loop().run_until_complete(session.close())
                asyncio.new_event_loop().run_until_complete(client.close())
                return session.abandon()

            # Between two awaits; nothing else of this loop runs in the child.
            loop = asyncio.get_running_loop()
            asyncio.events._set_running_loop(None)
            try:
                stepped, left = in_a_fork(step), in_a_fork(leave)
            finally:
                asyncio.events._set_running_loop(loop)
            assert isinstance(stepped, WrongOwner) and left is False
            assert (await session.step()).step == 1

    asyncio.run(main())


def test_a_second_thread_is_refused_while_the_first_is_in_a_call(client, runtime):
    came, go = threading.Event(), threading.Event()
    session, other = client.open(FRAMES), client.open(FRAMES)

    def hold(session, step):
        came.set()
        assert go.wait(TIMEOUT_S)

    runtime.hooks.predict = hold
    frames = []
    stepping = threading.Thread(target=lambda: frames.append(session.step()), name="driver")
    stepping.start()
    assert came.wait(TIMEOUT_S)
    calls = (session.step, other.step, other.ready, client.status, client.close, other.abandon)
    for call in calls:
        with pytest.raises(WrongOwner, match="while thread driver is in one"):
            call()
    go.set()
    stepping.join(TIMEOUT_S)
    assert [frame.step for frame in frames] == [1]
    assert other.step().step == 1


def test_threads_may_use_a_client_one_after_the_other(client):
    session, steps = client.open(FRAMES), []
    for _ in range(3):
        thread = threading.Thread(target=lambda: steps.append(session.step().step))
        thread.start()
        thread.join(TIMEOUT_S)
    assert steps == [1, 2, 3]


def test_an_observer_may_ask_the_client_that_it_observes(server):
    seen = []
    with StreamClient(
        server.endpoint, timeout_s=TIMEOUT_S, observer=lambda _: seen.append(client.status())
    ) as client:
        client.open(FRAMES).step()
        assert len(seen) == 2


def test_another_event_loop_is_refused_by_name(server):
    async def main():
        async with AsyncStreamClient(server.endpoint, timeout_s=TIMEOUT_S) as client:
            session = await client.open(FRAMES)

            def elsewhere(call):
                async def use():
                    await call()

                return asyncio.run(use())

            for call in (session.step, client.status, lambda: client.open(FRAMES), client.close):
                with pytest.raises(WrongOwner, match="another event loop"):
                    await asyncio.to_thread(elsewhere, call)
            with pytest.raises(WrongOwner, match="no event loop"):
                await asyncio.to_thread(session.abandon)
            assert (await session.step()).step == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    "how", [copy.copy, copy.deepcopy, pickle.dumps], ids=lambda how: how.__name__
)
def test_copies_of_a_client_and_of_a_session_are_refused_with_a_word_about_fork(client, how):
    async def main():
        async with AsyncStreamClient(client.endpoint, timeout_s=TIMEOUT_S) as other:
            for one in (other, await other.open(FRAMES)):
                with pytest.raises(InvalidInput, match=r"fork\(\)"):
                    how(one)

    session = client.open(FRAMES)
    for one in (client, session, [session], {"client": client}):
        if how is copy.copy and isinstance(one, list | dict):
            continue  # a shallow copy of the container alone
        with pytest.raises(InvalidInput, match=r"fork\(\)"):
            how(one)
    asyncio.run(main())
    assert session.step().step == 1
