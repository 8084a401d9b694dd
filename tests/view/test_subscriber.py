"""Other clients' sessions, from the server's PUB socket."""

from __future__ import annotations

import asyncio
import math

import msgpack
import zmq.asyncio

from sim_stream.view.subscriber import listen
from sim_stream.wire.client.async_client import AsyncStreamClient
from tests.wire.toy import drive, prompt_frames
from tests.wire.vectors import broken


def test_another_clients_session_can_be_watched_and_not_driven(page, tmp_path):
    publish = f"ipc://{tmp_path}/viewers"

    async def test(page):
        page.hub.start(listen(publish, page.hub.sessions.take_published))
        async with (
            page.viewer() as viewer,
            AsyncStreamClient(page.hub.endpoint) as client,
            await client.open(prompt_frames(), seed=1) as session,
        ):
            ours = viewer.watching
            for action in drive(3):  # the first may be sent before the subscription stands
                await session.step(action)
                await asyncio.sleep(0.2)
            await viewer.until(lambda: viewer.session(session.sid))
            assert viewer.session(session.sid)["state"] == "foreign"
            assert viewer.session(ours)["state"] == "paused"
            await viewer.send("run", sid=ours, running=True)  # published, too: shown once
            await viewer.until(lambda: len(viewer.headers) >= 4)
            assert [header["step"] for header in viewer.headers] == [*range(len(viewer.headers))]
            await viewer.send("watch", sid=session.sid)
            await viewer.until(lambda: viewer.headers[-1]["sid"] == session.sid)
            assert "round_trip" not in viewer.headers[-1]["timings_ms"]
            await viewer.send("keys", sid=session.sid, up=True)
            await viewer.until(lambda: viewer.notices)
            assert "another client's" in viewer.notices[0]

    page(test, publish=publish)


def hostile_frames():
    """Messages of every broken shape, and frames whose figures no page could show."""
    for vector in broken.replies():
        yield [b"sid", *vector.parts]
    image, number = bytes(12), 2**63 - 1
    for shape in (
        [1, 2, 2, 3],
        [1, 12, 1, 1],
        [1, 0, 2, 3],
        [0, 2, 2, 3],
        [2, 1, 2, 3],
        [1, 1, 4, 3],
    ):
        spec = {"name": "images", "dtype": "|u1", "shape": shape, "nbytes": math.prod(shape)}
        frame = {"step": number, "frame_id": number, "lag_frames": number, "final": True}
        frame |= {"marks": ["x" * 64] * 16, "timings_ns": {"x": number}}
        frame |= {"stats": {"accepted": [1e306] * 100}}
        fields = {"t": "frames", "sid": "s" * 64, "committed_step": -(2**63), "arrays": [spec]}
        frames = [frame] * shape[0]
        yield [b"sid", msgpack.packb(fields | {"frames": frames}), image[: math.prod(shape)]]


def test_no_published_message_ends_the_page_or_keeps_the_next_frame_from_it(page, tmp_path):
    publish = f"ipc://{tmp_path}/hostile"

    async def test(page):
        context = zmq.asyncio.Context()
        with context.socket(zmq.XPUB) as publisher:
            publisher.bind(publish)
            page.hub.start(listen(publish, page.hub.sessions.take_published))
            await publisher.recv()  # the subscription
            async with page.viewer() as viewer:
                for number, parts in enumerate(hostile_frames()):
                    await publisher.send_multipart(parts)
                    if number % 4 == 0:
                        await asyncio.sleep(0.01)
                await viewer.until(lambda: viewer.session("s" * 64))
                ours = viewer.watching
                await viewer.send("watch", sid="s" * 64)
                await viewer.until(lambda: viewer.watching == "s" * 64)
                await viewer.send("watch", sid=ours)
                await viewer.until(lambda: viewer.watching == ours)
                before = len(viewer.headers)
                await viewer.send("run", sid=ours, running=True)
                await viewer.until(lambda: len(viewer.headers) >= before + 3)
        context.term()

    page(test)


def test_what_is_no_frame_is_passed_over(tmp_path, caplog):
    address = f"ipc://{tmp_path}/hostile"
    heard = []

    async def main():
        context = zmq.asyncio.Context()
        with context.socket(zmq.XPUB) as publisher:
            publisher.bind(address)
            task = asyncio.create_task(listen(address, lambda *frame: heard.append(frame)))
            await publisher.recv()  # the subscription
            for parts in ([b""], [b"sid", b"no msgpack"], [b"sid", b"\x80", b"x"], [b"s"] * 40):
                await publisher.send_multipart(parts)
            async with asyncio.timeout(10):
                while len(caplog.records) < 4:
                    await asyncio.sleep(0.02)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        context.term()

    asyncio.run(main())
    assert heard == []
    assert all("viewers' socket" in record.message for record in caplog.records)
