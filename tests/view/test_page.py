"""What viewers see and may do, over real WebSockets and a real server with the toy runtime."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import replace

import av
import numpy as np
import pytest

from sim_stream.errors import ProtocolError, Unavailable
from sim_stream.view import door
from sim_stream.view.messages import Notice
from sim_stream.view.picture import jpeg
from sim_stream.view.viewer import NOTICES, UNSEEN_FRAMES, Viewer
from sim_stream.view.web import serving
from sim_stream.wire.client.async_client import AsyncRemoteSession, AsyncStreamClient
from sim_stream.wire.server.server import StreamServer
from tests.view.conftest import QUICK
from tests.wire.toy import SIZE, ToyModel, prompt_frames, toy_spec


def test_a_viewer_is_greeted_and_shown_the_first_frame(page):
    async def test(page):
        async with page.viewer() as viewer:
            await viewer.until(lambda: viewer.headers)
        assert viewer.welcome["model_id"] == "toy"
        assert viewer.welcome["frame_shape"] == [SIZE, SIZE, 3]
        assert viewer.headers[0]["step"] == 0
        assert viewer.session()["state"] == "paused"
        (image,) = av.CodecContext.create("mjpeg", "r").decode(av.Packet(viewer.jpegs[0]))
        assert (image.width, image.height) == (SIZE, SIZE)

    page(test)


def test_jpegs_look_like_their_frames():
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    image = np.stack(np.broadcast_arrays(ramp[:, None], ramp, 255 - ramp), axis=-1)
    (decoded,) = av.CodecContext.create("mjpeg", "r").decode(av.Packet(jpeg(image)))
    error = np.abs(decoded.to_ndarray(format="rgb24").astype(int) - image)
    assert error.mean() < 2.0  # of 255: rounding in YUV and the best quantizer


def test_started_it_steps_in_order_and_paused_it_stands_still(page):
    async def test(page):
        async with page.viewer() as viewer:
            await viewer.send("run", sid=viewer.watching, running=True)
            await viewer.until(lambda: len(viewer.headers) >= 5)
            await viewer.send("run", sid=viewer.watching, running=False)
            await viewer.until(lambda: viewer.session()["state"] == "paused")
            steps = [header["step"] for header in viewer.headers]
            assert steps == list(range(len(steps)))
            stood = viewer.session()["committed_step"]
            assert stood - steps[-1] <= 2  # what was in the air when it was paused
            for _ in range(3):
                state = viewer.state
                await viewer.until(lambda state=state: viewer.state is not state)
            assert viewer.session()["committed_step"] - stood <= 2

    page(test)


@pytest.mark.parametrize("lookahead", [0, 1])
def test_frames_say_how_far_they_lag(page, lookahead):
    async def test(page):
        async with page.viewer() as viewer:
            await viewer.send("run", sid=viewer.watching, running=True)
            await viewer.until(lambda: len(viewer.headers) >= 4)
        last = viewer.headers[-1]
        assert last["lag_frames"] == last["step"] - last["frame_id"] == lookahead
        assert last["codes"] == 256
        assert {"world_model", "video_decode", "queue", "round_trip"} <= last["timings_ms"].keys()

    page(test, lookahead=lookahead)


def test_a_server_that_is_too_slow_shows_as_late_steps(page):
    runtime = ToyModel(toy_spec(QUICK))
    runtime.hooks.predict = lambda session, step: time.sleep(2 / QUICK.fps)

    async def test(page):
        async with page.viewer() as viewer:
            await viewer.send("run", sid=viewer.watching, running=True)
            await viewer.until(lambda: viewer.session()["late"] >= 3)
            steps = [header["step"] for header in viewer.headers]
            assert steps == list(range(len(steps)))  # none is skipped

    page(test, runtime=runtime)


def test_keys_held_change_the_action_that_steps_are_sent_with(page):
    async def test(page):
        async with page.viewer() as viewer:
            await viewer.send("run", sid=viewer.watching, running=True)
            await viewer.send("keys", sid=viewer.watching, up=True, left=True)
            await viewer.until(lambda: len(viewer.headers) >= 6)
        actions = [header["inputs"] for header in viewer.headers if header["inputs"]]
        assert actions[-1]["speed_mps"] > 8.0
        assert actions[-1]["yaw_rate_radps"] > 0.0

    page(test)


def test_a_fork_is_listed_watched_and_driven_by_who_made_it(page):
    async def test(page):
        async with page.viewer() as maker, page.viewer() as other:
            parent = maker.watching
            await maker.send("run", sid=parent, running=True)
            await maker.until(lambda: maker.headers and maker.headers[-1]["step"] >= 2)
            await maker.send("fork", sid=parent)
            await maker.until(lambda: maker.watching != parent)
            child = maker.watching
            await other.until(lambda: other.session(child))
            listed = other.session(child)
            assert listed["parent"] == other.session(parent)["name"]
            assert listed["driver"] == maker.welcome["viewer"]
            assert listed["committed_step"] >= 2
            assert other.watching == parent
            await maker.until(lambda: maker.headers[-1]["sid"] == child)

    page(test)


def test_one_drives_and_the_others_are_told_who(page):
    async def test(page):
        async with page.viewer() as first, page.viewer() as second:
            sid, one, two = first.watching, first.welcome["viewer"], second.welcome["viewer"]
            await first.send("keys", sid=sid, up=True)
            await second.until(lambda: second.session()["driver"] == one)
            for command in (
                {"kind": "keys", "up": True},
                {"kind": "run", "running": True},
                {"kind": "reset", "seed": 1},
                {"kind": "close"},
                {"kind": "wheel", "take": False},
            ):
                second.notices.clear()
                await second.send(sid=sid, **command)
                await second.until(lambda: second.notices)
                assert f"viewer {one}, who has the wheel" in second.notices[0]
            await second.send("wheel", sid=sid, take=True)
            await first.until(lambda: first.session()["driver"] == two)
            await second.socket.close()
            await first.until(lambda: first.session()["driver"] is None)

    page(test)


def test_only_the_session_that_is_watched_can_be_driven(page):
    async def test(page):
        async with page.viewer() as viewer:
            first = viewer.watching
            await viewer.send("open", seed=1)
            await viewer.until(lambda: viewer.watching != first)
            await viewer.send("keys", sid=first, up=True)
            await viewer.send("wheel", sid=first, take=True)
            await viewer.until(lambda: viewer.notices)
            assert "the one you watch" in viewer.notices[0]
            assert viewer.session(first)["driver"] is None
            assert viewer.session()["driver"] == viewer.welcome["viewer"]

    page(test)


def test_keys_are_let_go_with_the_wheel(page):
    async def test(page):
        async with page.viewer() as staying:
            async with page.viewer() as leaving:
                await leaving.send("keys", sid=leaving.watching, left=True)
                await leaving.send("run", sid=leaving.watching, running=True)
                await leaving.until(lambda: len(leaving.headers) >= 4)
            seen = len(staying.headers)
            await staying.until(lambda: len(staying.headers) >= seen + 8)
        assert staying.headers[-1]["inputs"]["yaw_rate_radps"] == 0.0

    page(test)


def test_reset_starts_anew_under_the_seed(page):
    async def test(page):
        async with page.viewer() as viewer:
            await viewer.send("run", sid=viewer.watching, running=True)
            await viewer.until(lambda: viewer.headers and viewer.headers[-1]["step"] >= 3)
            await viewer.send("reset", sid=viewer.watching, seed=2**53 - 1)
            await viewer.until(lambda: viewer.session()["seed"] == 2**53 - 1)
            await viewer.until(lambda: viewer.headers[-1]["step"] < 3)

    page(test)


def test_sessions_start_from_the_prompt_that_is_named(page):
    async def speed_of_first_step(viewer):
        viewer.headers.clear()
        await viewer.send("run", sid=viewer.watching, running=True)
        await viewer.until(lambda: any(header["step"] == 1 for header in viewer.headers))
        await viewer.send("run", sid=viewer.watching, running=False)
        await viewer.until(lambda: viewer.session()["state"] == "paused")
        (first,) = (header for header in viewer.headers if header["step"] == 1)
        return first["inputs"]["speed_mps"]

    async def test(page):
        async with page.viewer() as viewer:
            assert viewer.welcome["prompts"] == ["day", "night"]
            first = viewer.watching
            assert await speed_of_first_step(viewer) == 8.0
            await viewer.send("open", seed=1, prompt="night")
            await viewer.until(lambda: viewer.watching != first)
            assert await speed_of_first_step(viewer) == 2.0
            await viewer.send("reset", sid=viewer.watching, seed=2)  # none named: the first
            await viewer.until(lambda: viewer.session()["seed"] == 2)
            assert await speed_of_first_step(viewer) == 8.0
            await viewer.send("reset", sid=viewer.watching, seed=3, prompt="night")
            await viewer.until(lambda: viewer.session()["seed"] == 3)
            assert await speed_of_first_step(viewer) == 2.0

    page(test)


def test_a_prompt_that_the_model_cannot_show_is_said_in_words(page):
    async def test(page):
        async with page.viewer() as viewer:
            assert viewer.session()["warning"] == ""
            page.hub.sessions.prompts["grey"] = replace(
                page.hub.sessions.prompt("day"), frames_THWC=np.full_like(prompt_frames(), 128)
            )
            await viewer.send("reset", sid=viewer.watching, seed=2, prompt="grey")
            await viewer.until(lambda: viewer.session()["seed"] == 2)
            assert "cannot show this prompt: 14.9 dB" in viewer.session()["warning"]
            await viewer.send("reset", sid=viewer.watching, seed=3, prompt="day")
            await viewer.until(lambda: viewer.session()["seed"] == 3)
            assert viewer.session()["warning"] == ""

    page(test)


def test_an_unknown_prompt_is_refused_and_nothing_else_changes(page):
    async def test(page):
        async with page.viewer() as viewer:
            await viewer.send("open", seed=1, prompt="noon")
            await viewer.until(lambda: viewer.notices)
            assert "prompt" in viewer.notices[0] and "day, night" in viewer.notices[0]
            await viewer.send("open", seed=2, prompt="day")  # not busy with the refused one
            await viewer.until(lambda: len(viewer.state["sessions"]) == 2)

    page(test)


def test_closing_takes_a_session_off_the_list_and_shows_another(page):
    async def test(page):
        async with page.viewer() as viewer:
            first = viewer.watching
            await viewer.send("open", seed=5)
            await viewer.until(lambda: viewer.watching != first)
            second = viewer.watching
            assert viewer.session()["seed"] == 5
            await viewer.send("close", sid=second)
            await viewer.until(lambda: not viewer.session(second))
            await viewer.until(lambda: viewer.watching == first)
            await viewer.send("close", sid=first)
            await viewer.until(lambda: viewer.watching is None)
            assert viewer.state["sessions"] == []

    page(test)


def test_a_refusal_of_the_server_is_shown(page):
    async def test(page):
        async with page.viewer() as viewer:
            await viewer.send("open", seed=0)
            await viewer.until(lambda: viewer.notices)
            assert "LIMIT" in viewer.notices[0]

    page(test, max_sessions=1)


def test_a_failed_session_says_so_and_a_reset_heals_it(page):
    runtime = ToyModel()

    def fail(session, step):
        if step == 3:
            raise RuntimeError("broken on purpose")

    async def test(page):
        async with page.viewer() as viewer:
            sid = viewer.watching
            await viewer.send("run", sid=sid, running=True)
            await viewer.until(lambda: viewer.session()["state"] == "failed")
            assert "ENGINE_FAILED" in viewer.session()["note"]
            await viewer.send("reset", sid=sid, seed=1)
            await viewer.until(lambda: viewer.session()["state"] == "paused")

    runtime.hooks.predict = fail
    page(test, runtime=runtime)


def test_a_viewer_that_draws_nothing_is_sent_two_frames_and_holds_up_nobody(page):
    async def test(page):
        async with page.viewer(draws=False) as slow, page.viewer() as quick:
            await quick.send("run", sid=quick.watching, running=True)
            await quick.until(lambda: len(quick.headers) >= 8)
            await slow.until(lambda: len(slow.headers) == UNSEEN_FRAMES)
            figures = {viewer.viewer: viewer for viewer in page.hub.state().viewers}
            ours, theirs = (figures[viewer.welcome["viewer"]] for viewer in (slow, quick))
            assert (ours.sent, theirs.dropped) == (UNSEEN_FRAMES, 0)
            assert ours.dropped >= 8 - UNSEEN_FRAMES - 1  # and the newest waits
            await slow.send("seen")  # it gets the newest, not what it missed
            await slow.until(lambda: len(slow.headers) == UNSEEN_FRAMES + 1)
            assert slow.headers[-1]["step"] >= 7

    page(test)


def test_a_connection_that_takes_nothing_holds_up_nobody_and_nothing_piles_up(page):
    class Stuck:
        async def send_str(self, data):
            await asyncio.Event().wait()

        send_bytes = send_str

    async def test(page):
        async with page.viewer() as quick:
            stuck = page.hub.join()
            pump = asyncio.create_task(stuck.pump(Stuck()))
            await quick.send("run", sid=quick.watching, running=True)
            await quick.until(lambda: len(quick.headers) >= 6)
            for _ in range(100):
                stuck.tell(Notice(text="x"))
            assert [header["step"] for header in quick.headers] == [*range(len(quick.headers))]
            assert stuck.dropped >= 4
            assert len(stuck._events) == NOTICES
            pump.cancel()
            page.hub.leave(stuck)

    page(test)


def test_dropped_frames_are_counted_and_the_newest_is_kept(page):
    async def test(page):
        async with page.viewer() as viewer:
            await viewer.until(lambda: viewer.headers)
            channel = page.hub.sessions.channels[viewer.watching]
            idle = Viewer(99)
            channel.join(idle)
            for _ in range(3):
                channel.show(channel.latest)
            assert (idle.dropped, idle.sent) == (3, 0)
            channel.leave(idle)

    page(test)


def test_nobody_watching_pauses_the_session(page, monkeypatch):
    monkeypatch.setattr("sim_stream.view.drive.UNWATCHED_S", 0.3)

    async def test(page):
        async with page.viewer() as viewer:
            sid = viewer.watching
            await viewer.send("run", sid=sid, running=True)
            await viewer.until(lambda: viewer.session()["state"] == "running")
        await asyncio.sleep(1.0)
        async with page.viewer() as viewer:
            assert viewer.session()["state"] == "paused"

    page(test)


def test_a_paused_session_outlives_its_lease(page):
    async def test(page):
        async with page.viewer() as viewer:
            started_s = time.monotonic()
            while time.monotonic() - started_s < 2.5:
                state = viewer.state
                await viewer.until(lambda state=state: viewer.state is not state)
            assert viewer.session()["state"] == "paused"
            await viewer.send("run", sid=viewer.watching, running=True)
            await viewer.until(lambda: len(viewer.headers) >= 3)

    page(test, lease_s=1.0)


def test_sessions_end_with_their_server_and_a_new_one_opens_on_the_next(page):
    async def test(page):
        async with page.viewer() as viewer:
            first, endpoint = viewer.watching, page.server.endpoint
            await viewer.send("run", sid=first, running=True)
            await viewer.until(lambda: len(viewer.headers) >= 3)
            await asyncio.to_thread(page.server.stop)
            await viewer.until(lambda: viewer.session(first)["state"] == "ended")
            with StreamServer(ToyModel(), bind=endpoint):
                await viewer.send("open", seed=3)
                await viewer.until(lambda: viewer.watching != first)
                await viewer.send("run", sid=viewer.watching, running=True)
                await viewer.until(lambda: viewer.headers[-1]["step"] >= 2)
                await viewer.send("close", sid=first)
                await viewer.until(lambda: not viewer.session(first))

    page(test)


def test_rubbish_from_the_server_ends_a_session_and_not_the_page(page, monkeypatch):
    async def rubbish(*_):
        raise ProtocolError("reply", "rubbish", "a message")

    async def test(page):
        async with page.viewer() as viewer:
            with monkeypatch.context() as patch:
                patch.setattr(AsyncRemoteSession, "receive", rubbish)
                patch.setattr(AsyncStreamClient, "status", rubbish)
                await viewer.send("run", sid=viewer.watching, running=True)
                await viewer.until(lambda: viewer.session()["state"] == "ended")
                assert "rubbish" in viewer.session()["note"]
            await viewer.send("open", seed=1)
            await viewer.until(lambda: viewer.session().get("seed") == 1)

    page(test)


def test_a_taken_port_is_named(page):
    async def test(page):
        port = int(page.host.rpartition(":")[2])
        with pytest.raises(Unavailable, match=f"{port}.*--port"):
            async with serving(page.hub, "127.0.0.1", port):
                pass

    page(test)


async def is_cut(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(20):
        try:
            return await reader.read() == b""
        except ConnectionError:
            return True


def test_half_sent_requests_time_out_and_viewers_stay(page, monkeypatch):
    monkeypatch.setattr(door, "REQUEST_S", 0.3)

    async def test(page):
        host, port = page.host.split(":")
        async with page.viewer() as viewer:
            for sent in (b"", b"GET / HTTP/1.1\r\nHost:"):
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(sent)
                assert await is_cut(reader)
                writer.close()
            await asyncio.sleep(0.5)
            await viewer.send("run", sid=viewer.watching, running=True)
            await viewer.until(lambda: len(viewer.headers) >= 3)

    page(test)


def test_of_too_many_connections_those_that_ask_nothing_go(page, monkeypatch):
    monkeypatch.setattr(door, "CONNECTIONS", 8)

    async def test(page):
        host, port = page.host.split(":")
        async with page.viewer() as viewer:
            silent = [await asyncio.open_connection(host, int(port)) for _ in range(12)]
            assert all([await is_cut(reader) for reader, _ in silent[:4]])
            async with page.http.get(page.url) as reply:
                assert reply.status == 200
            await viewer.send("run", sid=viewer.watching, running=True)
            await viewer.until(lambda: len(viewer.headers) >= 3)
            for _, writer in silent:
                writer.close()

    page(test)


def test_a_server_that_ended_is_said_with_what_to_start_and_followed_when_it_is_back(page):
    async def test(page):
        async with page.viewer() as viewer:
            first = viewer.watching
            await viewer.send("run", sid=first, running=True)
            await viewer.until(lambda: viewer.session(first)["committed_step"] >= 1)
            await asyncio.to_thread(page.server.stop)
            await viewer.until(lambda: viewer.state["outage"])
            assert viewer.state["outage"].endswith("start it again.")
            assert viewer.session(first)["state"] in ("waiting", "ended")
            await asyncio.to_thread(page.server.start)
            await viewer.until(lambda: not viewer.state["outage"])
            await viewer.until(lambda: viewer.session(first)["state"] == "ended")
            await viewer.send("open", seed=1)
            await viewer.until(lambda: viewer.watching not in (first, None))
            await viewer.send("run", sid=viewer.watching, running=True)
            await viewer.until(lambda: viewer.session()["committed_step"] >= 1)

    with socket.create_server(("127.0.0.1", 0)) as free:
        bind = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    page(test, bind=bind)
