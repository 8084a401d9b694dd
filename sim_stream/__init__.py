"""Streams driving frames into a world model and predicted frames back over ZeroMQ.

Names load on first use, so that ``import sim_stream`` brings neither torch nor zmq.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sim_stream import quiet

if TYPE_CHECKING:
    from sim_stream.config import Action, SamplingConfig, get_preset
    from sim_stream.errors import InvalidInput, SimStreamError
    from sim_stream.pipelines.tokens.runtime import Runtime
    from sim_stream.pipelines.tokens.world import TokenModel
    from sim_stream.spec import StreamSpec
    from sim_stream.stream_model import Chunk, StreamModel
    from sim_stream.video import read_clip
    from sim_stream.wire.client.async_client import AsyncStreamClient
    from sim_stream.wire.client.blocking_client import RemoteChunk, StreamClient
    from sim_stream.wire.server.server import StreamServer

quiet.switch_off()

__version__ = "0.1.0"

__all__ = [
    "Action",
    "AsyncStreamClient",
    "Chunk",
    "InvalidInput",
    "RemoteChunk",
    "Runtime",
    "SamplingConfig",
    "SimStreamError",
    "StreamClient",
    "StreamModel",
    "StreamServer",
    "StreamSpec",
    "TokenModel",
    "get_preset",
    "read_clip",
]

_HOMES = {
    "Action": "sim_stream.config",
    "AsyncStreamClient": "sim_stream.wire.client.async_client",
    "Chunk": "sim_stream.stream_model",
    "InvalidInput": "sim_stream.errors",
    "RemoteChunk": "sim_stream.wire.client.frame",
    "Runtime": "sim_stream.pipelines.tokens.runtime",
    "SamplingConfig": "sim_stream.config",
    "SimStreamError": "sim_stream.errors",
    "StreamClient": "sim_stream.wire.client.blocking_client",
    "StreamModel": "sim_stream.stream_model",
    "StreamServer": "sim_stream.wire.server.server",
    "StreamSpec": "sim_stream.spec",
    "TokenModel": "sim_stream.pipelines.tokens.world",
    "get_preset": "sim_stream.config",
    "read_clip": "sim_stream.video",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
