"""The page over a real server with the toy runtime, and viewers on real WebSockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from sim_stream.config import Action
from sim_stream.prompts import Prompt
from sim_stream.stream_model import StreamModel
from sim_stream.view.hub import Hub
from sim_stream.view.web import serving
from sim_stream.wire.client.async_client import AsyncStreamClient
from sim_stream.wire.server.server import StreamServer
from tests.wire.toy import PRESET, ToyModel, prompt_frames, toy_spec

TIMEOUT_S = 20.0
LENGTH_BYTES = 4
QUICK = replace(PRESET, fps=20)  # so that tests need not wait for frames


class TestViewer:
    """A viewer without a browser. ``frame`` and ``state`` are what came last."""

    __test__ = False

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, *, draws: bool) -> None:
        self.socket = socket
        self.welcome: dict[str, Any] = {}
        self.state: dict[str, Any] = {"sessions": [], "viewers": [], "server": None}
        self.headers: list[dict[str, Any]] = []
        self.jpegs: list[bytes] = []
        self.notices: list[str] = []
        self.draws = draws

    @property
    def watching(self) -> str:
        me = [v for v in self.state["viewers"] if v["viewer"] == self.welcome["viewer"]]
        return me[0]["watching"] if me else ""

    def session(self, sid: str | None = None) -> dict[str, Any]:
        wanted = sid or self.watching
        return next((s for s in self.state["sessions"] if s["sid"] == wanted), {})

    async def send(self, kind: str, **fields: Any) -> None:
        await self.socket.send_str(json.dumps({"t": kind} | fields))

    async def until(self, true: Callable[[], Any]) -> None:
        """Takes in what comes until that holds."""
        async with asyncio.timeout(TIMEOUT_S):
            while not true():
                await self.take(await self.socket.receive())

    async def take(self, message: aiohttp.WSMessage) -> None:
        if message.type is aiohttp.WSMsgType.BINARY:
            end = LENGTH_BYTES + int.from_bytes(message.data[:LENGTH_BYTES], "big")
            header = json.loads(message.data[LENGTH_BYTES:end])
            self.headers.append(header)
            for size in header["sizes"]:
                self.jpegs.append(message.data[end : end + size])
                end += size
            assert end == len(message.data)
            if self.draws:
                await self.send("seen")
            return
        assert message.type is aiohttp.WSMsgType.TEXT, message
        event = json.loads(message.data)
        match event["t"]:
            case "welcome":
                self.welcome = event
            case "state":
                self.state = event
            case "notice":
                self.notices.append(event["text"])


class PageUnderTest:
    def __init__(
        self, url: str, hub: Hub, http: aiohttp.ClientSession, server: StreamServer
    ) -> None:
        self.url, self.hub, self.http, self.server = url, hub, http, server

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    @asynccontextmanager
    async def viewer(self, *, draws: bool = True) -> AsyncIterator[TestViewer]:
        headers = {"Origin": f"http://{self.host}"}
        async with self.http.ws_connect(self.url + "socket", headers=headers) as socket:
            viewer = TestViewer(socket, draws=draws)
            if self.hub.sessions.channels:
                await viewer.until(lambda: viewer.watching)
            else:
                await viewer.until(lambda: viewer.welcome)
            yield viewer


@pytest.fixture
def page() -> Callable[..., Any]:
    """``page(test, lookahead=..., runtime=..., prompts=...)`` runs an ``async test(page)``.

    It begins with a session, where ``prompts`` has what one may start from.
    """

    def run(
        test: Callable[[PageUnderTest], Coroutine[Any, Any, None]],
        *,
        lookahead: int | None = None,
        runtime: StreamModel | None = None,
        prompts: dict[str, Prompt] | None = None,
        **options: Any,
    ) -> None:
        prompt = Prompt(
            frames_THWC=prompt_frames(),
            actions=[Action(speed_mps=8.0, yaw_rate_radps=0.0)] * 2,
            speed_mps=8.0,
        )
        night = replace(prompt, frames_THWC=prompt.frames_THWC // 4, speed_mps=2.0)

        offered = {"day": prompt, "night": night} if prompts is None else prompts

        async def main(endpoint: str) -> None:
            async with (
                AsyncStreamClient(endpoint, timeout_s=TIMEOUT_S) as client,
                asyncio.TaskGroup() as tasks,
            ):
                hub = Hub(
                    client,
                    offered,
                    tasks,
                    lookahead=lookahead,
                    advice="start it again.",
                )
                try:
                    if offered:
                        await hub.sessions.open(seed=0, prompt=hub.sessions.prompt(""))
                    async with (
                        serving(hub, "127.0.0.1", 0) as url,
                        aiohttp.ClientSession() as http,
                    ):
                        await test(PageUnderTest(url, hub, http, server))
                finally:
                    hub.stop()

        options = {"bind": "tcp://127.0.0.1:0"} | options
        with StreamServer(runtime or ToyModel(toy_spec(QUICK)), **options) as server:
            asyncio.run(main(server.endpoint))

    return run
