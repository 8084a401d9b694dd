"""A prompt that the model cannot show is named: in every reply that a session begins with, by every
client, and after every way back to it. The toy knows no prompt of one colour.
"""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import ExitStack
from dataclasses import asdict, replace

import msgspec
import numpy as np
import pytest

from sim_stream.errors import RemoteError
from sim_stream.expects import NOTHING_SAID
from sim_stream.recording.archive import RecordedSessions
from sim_stream.recording.load import load
from sim_stream.recording.recorder import Recorder
from sim_stream.wire import codec
from sim_stream.wire.client.async_client import AsyncStreamClient
from sim_stream.wire.client.blocking_client import StreamClient
from sim_stream.wire.messages import HelloOk
from sim_stream.wire.server.server import StreamServer
from tests.wire.conftest import TIMEOUT_S, RawClient, frames_spec
from tests.wire.toy import FOREIGN_DB, OWN_DB, SIZE, ToyModel, prompt_frames, toy_spec
from tests.wire.vectors import valid

OWN = prompt_frames()
GREY = np.full((2, SIZE, SIZE, 3), 128, np.uint8)
WORDS = "the model cannot show this prompt: 14.9 dB, its own world 28 dB or more"


def warnings_of(caplog):
    return [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_hello_says_what_the_model_expects(client):
    info = client.info
    assert (info.spec.prompt_psnr_min_db, info.spec.prompt_psnr_own_db) == (25.0, 28.0)
    assert asdict(info.spec.camera) == {
        "field_of_view_deg": 66.0,
        "up_m": 1.9,
        "pitch_down_deg": 3.5,
    }
    numbers = info.spec.step_inputs
    assert [(one.levels, one.taken) for one in numbers] == [(64, "end"), (61, "mean")]


def test_a_foreign_prompt_is_warned_of_once_at_every_start(client, caplog):
    with client.open(OWN) as session:
        assert (session.prompt_psnr_db, session.prompt_is_foreign) == (OWN_DB, False)
        assert session.prompt_warning == "" and not warnings_of(caplog)
        session.reset(GREY)
        assert (session.prompt_psnr_db, session.prompt_is_foreign) == (FOREIGN_DB, True)
        (record,) = warnings_of(caplog)
        assert record.getMessage() == session.prompt_warning and WORDS in record.getMessage()
        assert record.sid == session.sid
        session.step()
        assert session.fork().prompt_psnr_db == session.prompt_psnr_db == FOREIGN_DB
        session.reset(OWN)
        assert (session.prompt_psnr_db, session.prompt_is_foreign) == (OWN_DB, False)
        assert len(warnings_of(caplog)) == 1
    assert client.open(GREY).prompt_is_foreign and len(warnings_of(caplog)) == 2


def test_the_asyncio_client_says_the_same(server, caplog):
    async def main():
        async with (
            AsyncStreamClient(server.endpoint, timeout_s=TIMEOUT_S) as client,
            await client.open(GREY) as session,
        ):
            assert session.prompt_psnr_db == FOREIGN_DB and session.prompt_is_foreign
            assert WORDS in session.prompt_warning
            assert WORDS in warnings_of(caplog)[-1].getMessage()
            fork = await session.fork()
            await session.reset(OWN)
            assert session.prompt_psnr_db == OWN_DB and not session.prompt_is_foreign
            assert fork.prompt_is_foreign

    asyncio.run(main())


def test_weights_that_say_nothing_give_the_figure_and_no_warning(caplog):
    runtime = ToyModel(toy_spec(expects=NOTHING_SAID))
    with (
        StreamServer(runtime, bind="tcp://127.0.0.1:0") as server,
        StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as client,
        client.open(GREY) as session,
    ):
        assert client.info.spec.camera is None and client.info.spec.step_inputs[0].taken == ""
        assert session.prompt_psnr_db == FOREIGN_DB
        assert not session.prompt_is_foreign and session.prompt_warning == ""
    assert not warnings_of(caplog)


def test_only_replies_that_a_session_begins_with_bear_the_figure(raw):
    opened = raw.ask({"t": "open", "arrays": [frames_spec(GREY)]}, GREY.tobytes())
    sid = opened["sid"]
    assert opened["prompt_psnr_db"] == FOREIGN_DB
    assert raw.ask({"t": "step", "sid": sid, "step": 1})["prompt_psnr_db"] is None
    assert raw.ask({"t": "fork", "sid": sid})["prompt_psnr_db"] == FOREIGN_DB
    reset = raw.ask({"t": "reset", "sid": sid, "arrays": [frames_spec(OWN)]}, OWN.tobytes())
    assert (reset["t"], reset["prompt_psnr_db"]) == ("frames", OWN_DB)
    assert raw.ask({"t": "fork", "sid": sid})["prompt_psnr_db"] == OWN_DB


def test_resume_and_the_recording_tell_the_figure_of_the_start(tmp_path):
    def serving(stack):
        recorder = stack.enter_context(Recorder(tmp_path, by="server"))
        server = StreamServer(
            ToyModel(),
            bind="tcp://127.0.0.1:0",
            observer=recorder,
            archive=RecordedSessions(tmp_path),
        )
        raw = RawClient(stack.enter_context(server).endpoint)
        stack.callback(raw.close)
        return raw

    with ExitStack() as first:
        raw = serving(first)
        opened = raw.ask({"t": "open", "arrays": [frames_spec(OWN)]}, OWN.tobytes())
        start = {"t": "reset", "sid": opened["sid"], "arrays": [frames_spec(GREY)]}
        assert raw.ask(start, GREY.tobytes())["prompt_psnr_db"] == FOREIGN_DB
        raw.ask({"t": "step", "sid": opened["sid"], "step": 1})
        resume = {"t": "resume", "resume_token": opened["resume_token"]}
        assert raw.ask(resume)["prompt_psnr_db"] == FOREIGN_DB  # it never went
    with ExitStack() as second:
        raw = serving(second)
        resumed = raw.ask(resume)
        assert (resumed["committed_step"], resumed["prompt_psnr_db"]) == (1, FOREIGN_DB)
    files = sorted(tmp_path.glob("*.jsonl"), key=lambda path: len(path.name))
    told = [line.prompt_psnr_db for line in load(files[0]).shown]
    assert told == [OWN_DB, FOREIGN_DB, None]


def test_replies_of_a_server_that_knows_no_such_field_are_taken():
    for vector in valid.replies():
        plain = msgspec.msgpack.decode(vector.parts[0])
        plain.pop("prompt_psnr_db", None)
        spec = plain.get("spec", {})
        for name in ("prompt_psnr_min_db", "prompt_psnr_own_db", "camera"):
            spec.pop(name, None)
        message = codec.decode_reply(msgspec.msgpack.encode(plain))
        assert getattr(message, "prompt_psnr_db", None) is None
        if isinstance(message, HelloOk):
            assert message.spec.camera is None and message.spec.prompt_psnr_min_db is None


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_runtime_without_a_finite_figure_fails_its_session_alone(broken, client, runtime):
    bystander = client.open(OWN)
    make = runtime.open_session

    def open_session(*, lookahead=None):
        session = make(lookahead=lookahead)
        reset = session.reset

        def spoilt(*frames, **options):
            return replace(reset(*frames, **options), prompt_psnr_db=broken)

        session.reset = spoilt
        return session

    runtime.open_session = open_session
    with pytest.raises(RemoteError, match="ENGINE_FAILED"):
        client.open(OWN)
    assert bystander.step().step == 1
    assert runtime.sessions_open == 1
