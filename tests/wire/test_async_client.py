"""The asyncio client: the blocking one's frames, rules and errors, for many tasks at once."""

from __future__ import annotations

import asyncio
import inspect
import threading

import numpy as np
import pytest

from sim_stream.config import Action
from sim_stream.errors import ConnectionLost, InvalidInput, RemoteError, SessionClosed
from sim_stream.recording.load import load
from sim_stream.recording.recorder import Recorder
from sim_stream.recording.replay import replay
from sim_stream.wire.client.async_client import AsyncRemoteSession, AsyncStreamClient
from sim_stream.wire.client.blocking_client import RemoteSession, StreamClient
from tests.wire.conftest import TIMEOUT_S
from tests.wire.toy import ToyModel, drive, prompt_frames

FRAMES = prompt_frames()
LOCAL = "tcp://127.0.0.1:0"


def connected(server, **options) -> AsyncStreamClient:
    return AsyncStreamClient(server.endpoint, **({"timeout_s": TIMEOUT_S} | options))


async def frames_of(client: AsyncStreamClient, seed: int, steps: int = 4) -> list[np.ndarray]:
    async with client.open(FRAMES, seed=seed) as session:
        images = [session.frame.image]
        images += [(await session.step(action)).image for action in drive(steps)]
        last = await session.close()
    assert last is not None
    return [*images, last.image]


@pytest.mark.parametrize(
    ("ours", "theirs"), [(AsyncStreamClient, StreamClient), (AsyncRemoteSession, RemoteSession)]
)
def test_names_and_arguments_are_the_blocking_clients(ours, theirs):
    def public(kind):
        return {
            name: value
            for name, value in vars(kind).items()
            if not name.startswith("_") and inspect.isfunction(value)
        }

    blocking = public(theirs)
    blocking.pop("ready", None)  # asyncio waits for either of two things by itself
    assert public(ours).keys() == blocking.keys()
    for name, method in public(ours).items():
        same = inspect.signature(method).parameters
        assert same == inspect.signature(blocking[name]).parameters, name
    inits = [inspect.signature(kind.__init__).parameters.keys() for kind in (ours, theirs)]
    assert inits[0] == inits[1]


def test_frames_are_those_of_the_blocking_client(server, client):
    async def main():
        async with connected(server) as ours:
            return await frames_of(ours, 3)

    with client.open(FRAMES, seed=3) as session:
        expected = [session.frame.image, *(session.step(a).image for a in drive(4))]
        expected.append(session.close().image)
    np.testing.assert_array_equal(asyncio.run(main()), expected)


def test_sessions_of_many_tasks_do_not_disturb_each_other(server):
    async def main():
        async with connected(server) as client:
            alone = [await frames_of(client, seed) for seed in range(4)]
            together = await asyncio.gather(*(frames_of(client, seed) for seed in range(4)))
            return alone, together

    alone, together = asyncio.run(main())
    np.testing.assert_array_equal(alone, together)


def test_steps_in_flight_reset_fork_and_status(server):
    async def main():
        async with connected(server) as client:
            session = await client.open(FRAMES)
            assert [await session.send_step(), await session.send_step()] == [1, 2]
            with pytest.raises(InvalidInput, match="2 at most"):
                await session.send_step()
            assert session.in_flight == 2
            assert [(await session.receive()).step for _ in range(2)] == [1, 2]
            twin = await session.fork()
            one, other = await session.step(drive(1)[0]), await twin.step(drive(1)[0])
            np.testing.assert_array_equal(one.image, other.image)
            assert (await session.status()).committed_step == 3
            assert (await client.status()).sessions == 2
            assert (await session.reset(prompt_frames(key=4), seed=9)).step == 0
            assert (await session.step()).step == 1

    asyncio.run(main())


def test_mistakes_and_refusals_are_raised_and_the_session_goes_on(server):
    async def main():
        async with connected(server) as client:
            with pytest.raises(InvalidInput, match="seed"):
                await client.open(FRAMES, seed=-1)
            async with await client.open(FRAMES) as session:
                with pytest.raises(RemoteError, match="less than 999"):
                    await session.step(Action(speed_mps=999.0, yaw_rate_radps=0.0))
                assert (await session.step()).step == 1

    asyncio.run(main())


def test_an_opening_and_a_fork_are_coroutines_and_context_managers(server):
    async def main():
        async with connected(server) as client:
            async with client.open(FRAMES) as session, session.fork() as twin:
                assert [(await one.step((2.0, 0.1))).step for one in (session, twin)] == [1, 1]
            async with await client.open(FRAMES) as awaited:
                assert (await client.status()).sessions == 1
            task = asyncio.create_task(client.open(FRAMES))
            session, other = await task, await asyncio.wait_for(client.open(FRAMES), TIMEOUT_S)
            both = await asyncio.gather(session.fork(), other.fork())
            assert (await client.status()).sessions == 4
            for one in (*both, session, other, awaited):
                await one.close()
            with pytest.raises(ZeroDivisionError):
                async with client.open(FRAMES):
                    raise ZeroDivisionError
            with pytest.raises(InvalidInput, match="seed"):
                async with client.open(FRAMES, seed=-1):
                    raise AssertionError("it is not entered")
            async with client.open(FRAMES):
                assert (await client.status()).sessions == 1

    asyncio.run(main())


def test_no_server_is_connection_lost_within_the_timeout(server):
    server.stop()

    async def main():
        with pytest.raises(ConnectionLost, match=r"within 0.1 s"):
            async with connected(server, timeout_s=0.1):
                pass

    asyncio.run(main())


def test_step_whose_reply_was_late_is_received_later_and_taken_once(server, runtime):
    go, calls = threading.Event(), []

    def hold(session, step):
        calls.append(step)
        assert go.wait(TIMEOUT_S)

    async def main():
        async with connected(server, timeout_s=0.3) as client:
            session = await client.open(FRAMES)
            runtime.hooks.predict = hold
            with pytest.raises(ConnectionLost):
                await session.step()
            assert session.in_flight == 1
            go.set()
            assert (await session.receive()).step == 1
            assert (await session.step()).step == 2

    asyncio.run(main())
    assert calls == [1, 2]


def test_one_task_that_gives_up_costs_the_others_no_step(server, runtime):
    go = threading.Event()

    async def main():
        async with connected(server, timeout_s=0.3) as client:
            sessions = [await client.open(FRAMES, seed=seed) for seed in range(3)]
            expected = [await frames_of(client, seed, steps=1) for seed in range(3)]
            runtime.hooks.predict = lambda session, step: go.wait(TIMEOUT_S)
            steps = (session.step(drive(1)[0]) for session in sessions)
            lost = await asyncio.gather(*steps, return_exceptions=True)
            assert [type(error) for error in lost] == [ConnectionLost] * 3
            go.set()
            frames = await asyncio.gather(*(session.receive() for session in sessions))
            for frame, images in zip(frames, expected, strict=True):
                np.testing.assert_array_equal(frame.image, images[1])

    asyncio.run(main())


def test_step_that_was_cancelled_is_received_later_and_taken_once(server, runtime):
    go, calls = threading.Event(), []

    def hold(session, step):
        calls.append(step)
        assert go.wait(TIMEOUT_S)

    async def main():
        async with connected(server) as client:
            session = await client.open(FRAMES)
            runtime.hooks.predict = hold
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(session.step(), 0.1)
            go.set()
            assert (await session.receive()).step == 1

    asyncio.run(main())
    assert calls == [1]


def test_server_that_left_ends_its_sessions_and_a_new_one_opens(server, serve):
    async def main():
        async with connected(server) as client:
            session = await client.open(FRAMES)
            await asyncio.to_thread(server.stop)
            with pytest.raises(RemoteError, match="SHUTTING_DOWN"):
                await session.step()
            with pytest.raises(SessionClosed):
                await session.step()
            serve(bind=server.endpoint)
            async with await client.open(FRAMES) as session:
                assert (await session.step()).step == 1

    asyncio.run(main())


def test_client_that_leaves_closes_its_sessions_and_then_refuses(server, client, runtime):
    async def main():
        async with connected(server) as ours:
            session = await ours.open(FRAMES)
        with pytest.raises(SessionClosed):
            await session.step()
        with pytest.raises(SessionClosed):
            await ours.status()
        await ours.close()

    asyncio.run(main())
    with client.open(FRAMES):
        assert client.status().sessions == 1


def test_what_it_records_replays_equal(server, tmp_path):
    async def main():
        with Recorder(tmp_path, by="client") as recorder:
            async with connected(server, observer=recorder) as client:
                await frames_of(client, 3)

    asyncio.run(main())
    (path,) = tmp_path.glob("*.jsonl")
    assert replay(load(path), server.endpoint).same


def test_impossible_arguments_are_refused():
    with pytest.raises(InvalidInput, match="timeout_s"):
        AsyncStreamClient(timeout_s=0)

    async def main():
        async with AsyncStreamClient("carrier pigeon"):
            pass

    with pytest.raises(InvalidInput, match="endpoint"):
        asyncio.run(main())
    assert ToyModel().sessions_open == 0
