"""Whom the page's server talks to."""

from __future__ import annotations

import aiohttp
import pytest

from sim_stream.errors import InvalidInput
from sim_stream.view import guard
from sim_stream.view.messages import COMMAND_BYTES


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1:1", "[::1]:8080"])
def test_loopback_names_are_this_machine(host):
    assert guard.names_this_machine(host)
    assert guard.is_own_page(f"http://{host}", host)


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.test:8080",
        "127.0.0.1.evil.test",
        "192.168.0.7:80",
        "0.0.0.0:80",
        "[::1",
        "x:y",
    ],
)
def test_other_names_are_not(host):
    assert not guard.names_this_machine(host)


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "null",
        "http://evil.test",
        "http://localhost:3000",
        "https://localhost:8080",
        "file://",
    ],
)
def test_a_page_from_elsewhere_is_not_ours(origin):
    assert not guard.is_own_page(origin, "localhost:8080")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.7", "example.test", "::"])
def test_only_loopback_can_be_bound(host):
    with pytest.raises(InvalidInput, match="ssh -L"):
        guard.require_loopback(host)


def test_a_rebound_name_gets_neither_page_nor_socket(page):
    async def test(page):
        for path in ("", "static/app.js", "socket"):
            async with page.http.get(page.url + path, headers={"Host": "evil.test"}) as reply:
                assert reply.status == 403

    page(test)


@pytest.mark.parametrize("headers", [{}, {"Origin": "http://evil.test"}])
def test_a_socket_from_another_page_is_refused(page, headers):
    async def test(page):
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await page.http.ws_connect(page.url + "socket", headers=headers)
        assert page.hub.viewers == 0

    page(test)


def test_the_page_may_load_scripts_from_here_alone(page):
    async def test(page):
        async with page.http.get(page.url) as reply:
            assert reply.status == 200
            assert (
                "default-src 'none'; script-src 'self'" in reply.headers["Content-Security-Policy"]
            )
            assert "http://" not in await reply.text()

    page(test)


@pytest.mark.parametrize("name", ["../web.py", "%2e%2e/web.py", "..%2fweb.py", "web.py", "nothing"])
def test_nothing_but_the_pages_files_is_served(page, name):
    async def test(page):
        async with page.http.get(f"{page.url}static/{name}") as reply:
            assert reply.status == 404

    page(test)


def test_a_command_that_is_too_long_ends_the_connection(page):
    async def test(page):
        async with page.viewer() as viewer:
            await viewer.socket.send_str(" " * (COMMAND_BYTES + 1))
            message = await viewer.socket.receive()
            while message.type not in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED):
                message = await viewer.socket.receive()
            assert message.data == aiohttp.WSCloseCode.MESSAGE_TOO_BIG

    page(test)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"t":"sudo"}',
        '{"t":"watch"}',
        '{"t":"open","seed":-1}',
        '{"t":"open","seed":1,"prompt":7}',
        '{"t":"open","seed":1,"prompt":"%s"}' % ("x" * 65),
        '{"t":"open","seed":1e300}',
        '{"t":"open","seed":9007199254740992}',
        '{"t":"run","sid":"x","running":1}',
        '{"t":"seen","more":1}',
        '{"t":"watch","sid":"' + "x" * 65 + '"}',
        '{"t":"watch","sid":"nosuch"}',
    ],
)
def test_a_bad_command_gets_a_notice_and_changes_nothing(page, text):
    async def test(page):
        async with page.viewer() as viewer:
            before = viewer.state["sessions"]
            await viewer.socket.send_str(text)
            await viewer.until(lambda: viewer.notices)
            assert "got" in viewer.notices[0]
            await viewer.send("run", sid=viewer.watching, running=False)  # still heard
            assert viewer.state["sessions"] == before

    page(test)
