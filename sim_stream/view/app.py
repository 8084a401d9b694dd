"""``sim-stream view``: a server of its own or a running one, a client of it, and the page.

The one line on stdout says where the page is. Ctrl-C or SIGTERM ends it with status 0: viewers are
told, sessions closed, a server of its own stopped.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import AbstractContextManager, nullcontext

from sim_stream.clips import CLIPS
from sim_stream.errors import InvalidInput, SimStreamError, Unavailable
from sim_stream.prompts import Prompt, read_prompt
from sim_stream.server_process import ServerProcess
from sim_stream.view.guard import require_loopback
from sim_stream.view.hub import Hub
from sim_stream.view.options import ViewOptions
from sim_stream.view.subscriber import listen
from sim_stream.view.web import serving
from sim_stream.wire.client.async_client import AsyncStreamClient
from sim_stream.wire.keys import ClientKeys

log = logging.getLogger(__name__)

TIMEOUT_S = 30.0
WATCH_S = 0.5


def run(options: ViewOptions) -> int:
    """Serves the page until a signal. Raises SimStreamError."""
    require_loopback(options.host)
    own: AbstractContextManager[ServerProcess | None] = nullcontext()
    if options.server is None:
        own = ServerProcess(options.own_server())
    with own as process:
        endpoint = process.endpoint if process else options.server
        assert endpoint is not None
        ended = asyncio.run(_serve(options, endpoint, process))
        if ended is not None:
            raise ended
    return 0


async def _serve(
    options: ViewOptions, endpoint: str, process: ServerProcess | None
) -> SimStreamError | None:
    """Why it ended; None: a signal."""
    client = AsyncStreamClient(
        endpoint, timeout_s=TIMEOUT_S, key=options.key, server_key=options.server_key
    )
    async with client:
        height, width, _ = client.info.frame_shape
        if height != width:
            raise InvalidInput("server", f"frames of {height}x{width}", "square frames")
        prompts = read_prompts(options, height)
        async with asyncio.TaskGroup() as tasks:
            hub = Hub(client, prompts, tasks, lookahead=options.lookahead, seed=options.seed)
            try:
                await hub.sessions.open(options.seed, hub.sessions.prompt(""))
                if options.subscribe is not None:
                    keys = ClientKeys.load(options.key, options.server_key)
                    hub.start(listen(options.subscribe, hub.sessions.take_published, keys))
                async with serving(hub, options.host, options.port) as url:
                    await _until_stopped(process, url)
            except SimStreamError as error:
                return error  # returned: a TaskGroup would wrap what is raised
            finally:
                hub.stop()
    if process is not None and process.exit_status is not None:
        return Unavailable(f"the server died: {process.last_words()}")
    return None


def read_prompts(options: ViewOptions, size: int) -> dict[str, Prompt]:
    """By name, the one that was asked for first; the shipped clips always. Raises VideoError."""
    clips = [options.clip, *(clip for clip in CLIPS if clip != options.clip)]
    found: dict[str, Prompt] = {}
    if options.video is not None:
        found["video"] = read_prompt(options.video, size=size, start_s=options.start_s)
    for clip in clips:
        asked = clip == options.clip and options.video is None
        start_s = options.start_s if asked else 0.0
        found[clip] = read_prompt(None, clip=clip, size=size, start_s=start_s)
    return found


async def _until_stopped(process: ServerProcess | None, url: str) -> None:
    """Until SIGINT or SIGTERM, which are heard before it says ``ready``, or our server's end."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    print(f"ready {url}  (Ctrl-C ends it)", flush=True)
    try:
        while process is None or process.exit_status is None:
            try:
                async with asyncio.timeout(WATCH_S):
                    await stop.wait()
                return
            except TimeoutError:
                continue
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
