"""Whatever fails inside the page: it costs one command, frame or session, and the page goes on."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from sim_stream.view.drive import Drive
from sim_stream.view.hub import Hub
from sim_stream.view.picture import Picture
from sim_stream.view.sessions import Sessions
from sim_stream.view.viewer import Viewer
from sim_stream.wire.client.async_client import AsyncStreamClient
from tests.wire.test_last_resort import Plant

# Where it is planted, and how often in a row.
PLACES: dict[str, tuple[Any, str]] = {
    "a command": (Hub, "obey"),
    "a command's work": (Sessions, "fork"),
    "telling all": (Hub, "state"),
    "silent sessions": (Sessions, "forget_silent"),
    "the server's status": (AsyncStreamClient, "status"),
    "a frame's picture": (Picture, "_encode"),
    "offering it": (Viewer, "offer_state"),
}


async def take_in(viewer: Any) -> None:
    """What comes in a little while."""
    with suppress(TimeoutError):
        async with asyncio.timeout(0.05):
            while True:
                await viewer.take(await viewer.socket.receive())


async def goes_on(viewer: Any) -> None:
    """Frames come, commands are obeyed, the list is told."""
    before = len(viewer.headers)
    await viewer.send("run", sid=viewer.watching, running=True)
    await viewer.until(lambda: len(viewer.headers) >= before + 3)
    await viewer.send("run", sid=viewer.watching, running=False)
    await viewer.until(lambda: viewer.session()["state"] == "paused")


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("place", PLACES)
def test_page_survives_an_exception_in(place, times, page, monkeypatch):
    async def test(page):
        async with page.viewer() as viewer, page.viewer() as bystander:
            plant = Plant(monkeypatch, *PLACES[place])
            plant.left = times
            ours = viewer.watching
            for _ in range(200):
                if not plant.left:
                    break
                await viewer.send("run", sid=ours, running=True)
                if place == "a command's work":
                    await viewer.send("fork", sid=ours)
                await take_in(viewer)
            plant.left = 0
            assert plant.raised == times
            await goes_on(viewer)
            await bystander.until(lambda: len(bystander.headers) >= 3)

    page(test)


def test_a_drive_that_fails_ends_and_says_so_and_others_go_on(page, monkeypatch):
    async def test(page):
        async with page.viewer() as viewer:
            first = viewer.watching
            await viewer.send("open", seed=3)
            await viewer.until(lambda: viewer.watching and viewer.watching != first)
            Plant(monkeypatch, Drive, "_send").left = 1
            await viewer.send("run", sid=viewer.watching, running=True)
            await viewer.until(lambda: viewer.session()["state"] == "ended")
            assert "Planted" in viewer.session()["note"]
            assert "forged" not in viewer.session()["note"]
            await viewer.send("watch", sid=first)
            await viewer.until(lambda: viewer.watching == first)
            await goes_on(viewer)

    page(test)
