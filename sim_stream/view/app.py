"""``sim-stream view``: a server of its own or a running one, a client of it, and the page.

The one line on stdout says where the page is. Ctrl-C or SIGTERM ends it with status 0: viewers are
told, sessions closed, a server of its own stopped.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from sim_stream.clips import CLIPS
from sim_stream.config import FrameSize
from sim_stream.errors import InvalidInput, SimStreamError
from sim_stream.outputs import try_folder
from sim_stream.prompts import SPEED_MPS, Prompt, fitting, read_prompt
from sim_stream.server_process import ServerProcess
from sim_stream.spec import StreamSpec, no_frames
from sim_stream.stop_signals import heard_signals
from sim_stream.view.fields import obstacle
from sim_stream.view.guard import require_loopback
from sim_stream.view.hub import Hub
from sim_stream.view.keeper import Keeper
from sim_stream.view.options import ViewOptions
from sim_stream.view.subscriber import listen
from sim_stream.view.web import serving
from sim_stream.wire.client.async_client import AsyncStreamClient
from sim_stream.wire.keys import ClientKeys

log = logging.getLogger(__name__)

TIMEOUT_S = 30.0
NOTHING = "nothing"  # to start from, where a model needs no prompt frames


def run(options: ViewOptions) -> int:
    """Serves the page until a signal. Raises SimStreamError."""
    require_loopback(options.host)
    if options.record is not None:
        try_folder("record", options.record)
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
        prompts = read_prompts(options, client.info.spec)
        async with asyncio.TaskGroup() as tasks:
            hub = Hub(
                client,
                prompts,
                tasks,
                lookahead=options.lookahead,
                seed=options.seed,
                advice=advice(options),
            )
            try:
                if not obstacle(client.info.spec):
                    await hub.sessions.open(options.seed, hub.sessions.prompt(""))
                if options.subscribe is not None:
                    keys = ClientKeys.load(options.key, options.server_key)
                    hub.start(listen(options.subscribe, hub.sessions.take_published, keys))
                async with serving(hub, options.host, options.port) as url:
                    ended = await _until_stopped(hub, process, url)
                    why = "The page was ended" if ended is None else f"{ended}. The page has ended"
                    await hub.end(f"{why}; start `sim-stream view` again, and it goes on here.")
                    return ended
            except SimStreamError as error:
                return error  # returned: a TaskGroup would wrap what is raised
            finally:
                hub.stop()


def advice(options: ViewOptions) -> str:
    """What to do about a server that is silent."""
    if options.server is None:
        return "It may be busy or stopped; the page goes on when it answers."
    start = f"sim-stream serve --bind {options.server}"
    return f"If it has ended, start it again (`{start}`); the page goes on when it answers."


def read_prompts(options: ViewOptions, spec: StreamSpec) -> dict[str, Prompt]:
    """By name, the one that was asked for first; the shipped clips where the model takes frames,
    nothing where it needs none. Raises InvalidInput, VideoError."""
    count = fitting(*spec.prompt_frames)
    if options.video is not None and not count:
        raise InvalidInput("video", options.video, f"none: {spec.model_id} takes no prompt frames")
    nothing = {NOTHING: Prompt(frames_THWC=no_frames(spec), actions=None, speed_mps=SPEED_MPS)}
    if not count:
        return nothing
    height, width, _ = spec.frame_shape
    read = partial(read_prompt, size=FrameSize(height=height, width=width), frames=count)
    found: dict[str, Prompt] = {}
    if options.video is not None:
        found["video"] = read(options.video, start_s=options.start_s)
    for clip in (options.clip, *(clip for clip in CLIPS if clip != options.clip)):
        asked = clip == options.clip and options.video is None
        found[clip] = read(None, clip=clip, start_s=options.start_s if asked else 0.0)
    return found if spec.prompt_frames[0] else found | nothing


async def _until_stopped(
    hub: Hub, process: ServerProcess | None, url: str
) -> SimStreamError | None:
    """Until a signal, which is heard before it says ``ready``, or until our server is given up."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in heard_signals():
        loop.add_signal_handler(number, stop.set)
    print(f"ready {url}  (Ctrl-C ends it)", flush=True)
    waiting: list[asyncio.Task[object]] = [asyncio.create_task(stop.wait())]
    if process is not None:
        keeper = Keeper(process, hub.health.died, hub.health.restarted)
        waiting.append(asyncio.create_task(keeper.keep()))
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        ended = waiting[-1].result() if waiting[-1].done() else None
        return ended if isinstance(ended, SimStreamError) else None
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
