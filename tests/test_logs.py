"""Structured logs: the server's records carry the ids, and become one JSON object a line."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from datetime import datetime

import pytest

from sim_stream.errors import RemoteError
from sim_stream.logs import JsonFormatter, TextFormatter
from sim_stream.wire.client.blocking_client import StreamClient
from sim_stream.wire.server.server import StreamServer
from tests.wire.toy import ToyModel, prompt_frames

TIMEOUT_S = 10.0


def as_json(record: logging.LogRecord) -> dict[str, object]:
    line = JsonFormatter().format(record)
    assert "\n" not in line
    return json.loads(line)


@pytest.fixture
def runtime() -> ToyModel:
    return ToyModel()


@pytest.fixture
def client(runtime, caplog) -> Iterator[StreamClient]:
    caplog.set_level(logging.DEBUG, logger="sim_stream")
    with (
        StreamServer(runtime, bind="tcp://127.0.0.1:0", lease_s=0.5) as server,
        StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as client,
    ):
        yield client


def one(caplog: pytest.LogCaptureFixture, text: str) -> dict[str, object]:
    """The record whose message has that text, as the JSON log shows it."""
    (record,) = [r for r in caplog.records if text in r.getMessage()]
    return as_json(record)


def test_a_line_has_time_level_logger_and_message():
    record = logging.LogRecord("a.b", logging.WARNING, "", 0, "got %s", ('"ü"\n',), None)
    entry = as_json(record)
    assert list(entry) == ["time", "level", "logger", "message"]
    assert entry | {"time": None} == {
        "time": None,
        "level": "warning",
        "logger": "a.b",
        "message": 'got "ü"\n',
    }
    stamp = datetime.fromisoformat(str(entry["time"]))
    assert stamp.tzinfo is not None
    assert abs(stamp.timestamp() - record.created) < 0.001


def test_an_exception_is_one_field():
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        record = logging.LogRecord("a", logging.ERROR, "", 0, "failed", (), sys.exc_info())
    entry = as_json(record)
    assert "Traceback" in str(entry["exception"])
    assert str(entry["exception"]).endswith("RuntimeError: broken")


def test_a_session_is_logged_from_open_to_close_with_its_ids(client, caplog):
    with client.open(prompt_frames(), seed=7) as session:
        session.step()
        fork = session.fork()
        session.reset(prompt_frames(), seed=8)
    opened = one(caplog, "opened, seed 7")
    assert (opened["sid"], opened["level"]) == (session.sid, "info")
    assert isinstance(opened["rid"], int)
    answered = one(caplog, "step 1 answered")
    assert (answered["sid"], answered["step"], answered["level"]) == (session.sid, 1, "debug")
    assert one(caplog, f"a fork of {session.sid}")["sid"] == fork.sid
    assert one(caplog, "reset, seed 8")["sid"] == session.sid
    closed = one(caplog, "closed at step 0")
    assert (closed["sid"], closed["step"]) == (session.sid, 0)


def test_a_refusal_is_logged_at_debug_with_its_code(client, caplog):
    session = client.open(prompt_frames())
    with pytest.raises(RemoteError, match="DEADLINE"):
        session.step(deadline_ms=0)
    entry = one(caplog, "step refused: DEADLINE")
    assert entry | {"sid": session.sid, "step": 1, "code": "DEADLINE", "level": "debug"} == entry


def test_a_request_refused_before_the_engine_is_logged_too(client, caplog):
    session = client.open(prompt_frames())
    session.close()
    session._stream._closed = False
    with pytest.raises(RemoteError, match="NO_SESSION"):
        session.step()
    entry = one(caplog, "step refused: NO_SESSION")
    assert (entry["sid"], entry["code"]) == (session.sid, "NO_SESSION")


def test_an_engine_failure_is_logged_with_traceback_and_ids(client, caplog, runtime):
    def fail(session: object, step: int) -> None:
        raise RuntimeError("broken on purpose")

    runtime.hooks.predict = fail
    session = client.open(prompt_frames())
    with pytest.raises(RemoteError, match="ENGINE_FAILED"):
        session.step()
    entry = one(caplog, "engine failed")
    assert (entry["sid"], entry["step"], entry["level"]) == (session.sid, 1, "error")
    assert "broken on purpose" in str(entry["exception"])


def test_an_expired_lease_is_logged(client, caplog, runtime):
    session = client.open(prompt_frames())
    while client.status().sessions:  # asks for no session: its lease runs out
        pass
    assert one(caplog, "lease ran out")["sid"] == session.sid


# Line ends of every kind, escape codes (also C1's), directions, a half of a character, a NUL.
FORGED = "a\n2026 INFO x: forged\r\x1b[2J\x9b31m\x85\u2028\u202e\ud800\x00\x7fz"


def forged_record(error: BaseException | None = None) -> logging.LogRecord:
    info = None if error is None else (type(error), error, error.__traceback__)
    return logging.LogRecord(FORGED, logging.ERROR, "", 0, "got %s", (FORGED,), info)


def test_text_of_a_peer_writes_no_line_and_no_escape_code_of_its_own():
    line = TextFormatter().format(forged_record())
    assert line.isprintable() and line.isascii()
    assert r"a\n2026 INFO x: forged\r\x1b[2J" in line and r"\ud800\x00\x7fz" in line


def test_an_exception_of_a_peers_words_writes_no_line_of_its_own():
    def fail() -> None:
        try:
            raise ValueError(FORGED)
        except ValueError as cause:
            raise ExceptionGroup(FORGED, [KeyError(FORGED), RuntimeError("plain")]) from cause

    with pytest.raises(ExceptionGroup) as caught:
        fail()
    first, *lines = TextFormatter().format(forged_record(caught.value)).split("\n")
    assert "got a" in first and all(line.isprintable() for line in lines)
    assert not any(line.startswith(("2026", "got")) for line in lines)
    assert [line for line in lines if line.startswith(("ValueError: a", "ExceptionGroup: a"))]
    assert "  RuntimeError: plain" in lines and "which led to:" in lines


def test_an_exception_that_cannot_say_what_it_is_does_not_cost_the_record():
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    text = TextFormatter().format(forged_record(Mute()))
    assert "Mute: (its text failed with RuntimeError)" in text


def test_a_json_line_stays_one_line_for_every_reader_and_every_stream():
    record = forged_record()
    record.sid = FORGED  # type: ignore[attr-defined]
    line = JsonFormatter().format(record)
    assert len(line.splitlines()) == 1 and line.isprintable()
    line.encode()
    entry, text = json.loads(line), FORGED.encode("utf-8", "backslashreplace").decode()
    assert entry["sid"] == text and entry["message"] == f"got {text}"
