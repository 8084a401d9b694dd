"""Toy servers to record and to replay on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sim_stream.recording.formats import LINE_SUFFIXES
from sim_stream.recording.load import load
from sim_stream.recording.recorder import Recorder
from sim_stream.recording.replay import Report, replay
from sim_stream.wire.client.blocking_client import RemoteFrame, StreamClient
from sim_stream.wire.server.server import StreamServer
from tests.wire.conftest import TIMEOUT_S
from tests.wire.toy import ToyModel, drive, prompt_frames

LOCAL = "tcp://127.0.0.1:0"


@pytest.fixture
def replayed() -> Iterator[Callable[[Path], Report]]:
    """Replays a recording on a fresh toy server."""
    with StreamServer(ToyModel(), bind=LOCAL) as server:
        yield lambda path: replay(load(path), server.endpoint)


@pytest.fixture
def recording_client(tmp_path: Path) -> Iterator[Callable[..., StreamClient]]:
    """A client of a toy server, of which one side records into ``tmp_path``; see ``finish``."""
    with ExitStack() as stack:

        def start(by: str = "server", runtime: ToyModel | None = None, **options: Any) -> Any:
            recorder = stack.enter_context(Recorder(tmp_path, by=by, **options))  # type: ignore[arg-type]
            sides = {"server": None, "client": None} | {by: recorder}
            server = StreamServer(runtime or ToyModel(), bind=LOCAL, observer=sides["server"])
            stack.enter_context(server)
            client = StreamClient(server.endpoint, timeout_s=TIMEOUT_S, observer=sides["client"])
            return stack.enter_context(client)

        start.finish = stack.close  # type: ignore[attr-defined]  # server, client and recorder
        yield start


@pytest.fixture
def record(recording_client: Any, tmp_path: Path) -> Callable[..., tuple[Path, list[RemoteFrame]]]:
    """Records a drive; its file and the frames that the client got."""

    def run(
        by: str = "server", *, steps: int = 5, form: str = "ffv1", **start: Any
    ) -> tuple[Path, list[RemoteFrame]]:
        client = recording_client(by, form=form)
        with client.open(prompt_frames(), **({"seed": 3} | start)) as session:
            frames = [session.frame, *(session.step(action) for action in drive(steps))]
            last = session.close()
        recording_client.finish()
        return recorded(tmp_path), frames if last is None else [*frames, last]

    return run


def recorded(folder: Path, sid: str = "") -> Path:
    """The one recording in that folder, or that session's: its sidecar, or its MCAP file."""
    (path,) = (path for path in recordings(folder) if sid in path.name)
    return path


def recordings(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix in LINE_SUFFIXES]


def has_ended(folder: Path, sid: str = "") -> bool:
    try:
        return load(recorded(folder, sid)).end is not None
    except ValueError:  # which InvalidInput is: nothing is there yet
        return False


def wait_until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline_s, "never happened"
        time.sleep(0.01)
