"""What clients choose and what the server issues are two name spaces: crossed, nothing is lost."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from sim_stream.recording.archive import RecordedSessions
from sim_stream.recording.recorder import Recorder
from sim_stream.wire.server.exactly_once import Openings, Waiter
from sim_stream.wire.server.sessions import CLOSED_KEPT
from tests.wire.conftest import RawClient, frames_spec
from tests.wire.toy import prompt_frames

FRAMES = prompt_frames()
REQUESTS = 700


@pytest.fixture
def recording(serve, tmp_path: Path):
    """A server that records, and a client of it."""
    with Recorder(tmp_path, by="server") as recorder:
        server = serve(observer=recorder, archive=RecordedSessions(tmp_path))
        raw = RawClient(server.endpoint)
        yield server, raw
        raw.close()
        server.stop()


def test_key_called_as_a_former_session_names_no_session(recording):
    """39 requests: the session's close is forgotten, its name taken for a key, then resumed."""
    server, raw = recording
    first = raw.ask_open()
    raw.ask({"t": "close", "sid": first["sid"]})
    for _ in range(CLOSED_KEPT + 1):
        raw.ask({"t": "close", "sid": raw.open()})
    second = raw.ask_open(idempotency_key=first["sid"])
    assert second["t"] == "opened" and second["sid"] != first["sid"]
    assert raw.ask({"t": "resume", "resume_token": first["resume_token"]})["code"] == "NO_SESSION"
    assert raw.ask({"t": "step", "sid": second["sid"], "step": 1})["t"] == "frames"
    assert raw.ask_open(idempotency_key=first["sid"])["sid"] == second["sid"]
    assert raw.ask({"t": "close", "sid": second["sid"]})["t"] == "closed"
    assert raw.ask_open(idempotency_key=first["sid"])["code"] == "NO_SESSION"
    assert raw.ask({"t": "heartbeat"})["sessions"] == 0
    assert server.counters.internal.by_place() == {}


def test_key_called_as_a_session_is_a_key():
    openings = Openings()
    openings.begin("", b"", "sid", Waiter(b"one", 1))
    assert openings.recall("sid", b"digest", Waiter(b"two", 2)) is False
    openings.begin("sid", b"digest", "other", Waiter(b"two", 2))
    assert openings.recall("sid", b"digest", Waiter(b"three", 3)) is True
    assert openings.finish("sid", None) == [Waiter(b"one", 1)]
    assert openings.finish("other", None) == [Waiter(b"two", 2), Waiter(b"three", 3)]


def test_an_opening_under_way_is_never_overwritten():
    openings = Openings()
    openings.begin("key", b"", "first", Waiter(b"one", 1))
    for key, sid in (("key", "second"), ("other", "first")):
        with pytest.raises(AssertionError, match="who waits"):
            openings.begin(key, b"", sid, Waiter(b"two", 2))
    assert openings.finish("first", None) == [Waiter(b"one", 1)]


class Crossed:
    """Requests whose keys, sids and tokens are any text that was ever a key, a sid or a token."""

    def __init__(self, seed: int, raws: list[RawClient]) -> None:
        self._random = random.Random(seed)
        self._raws = raws
        self._texts = ["", "k", "0" * 16, "x" * 64]
        self._live: dict[str, int] = {}
        self.answers: Counter[str] = Counter()

    def ask(self) -> None:
        raw, kind = self._random.choice(self._raws), self._random.randrange(8)
        text, other = (self._random.choice(self._texts[-40:]) for _ in range(2))
        live = self._random.choice([*self._live]) if self._live else text
        match kind:
            case 0 | 1:
                key, seed = text[:64], self._random.randrange(2)
                self._opened(raw, "open", idempotency_key=key, seed=seed)
            case 2:
                self._opened(raw, "fork", sid=live, idempotency_key=text[:64])
            case 3:
                self._opened(raw, "resume", resume_token=text[:64])
            case 4:
                self._closed(raw, self._random.choice((live, text[:64])))
            case 5:
                self._told(raw, t="step", sid=other[:64], step=self._random.randrange(4))
            case 6:
                self._told(raw, t="step", sid=live, step=self._live.get(live, 0) + 1)
            case 7:
                self._told(raw, t="heartbeat", sid=other[:64])

    def _opened(self, raw: RawClient, t: str, **fields: object) -> None:
        if t == "open":
            fields["arrays"] = [frames_spec(FRAMES)]
        reply = self._told(raw, *([FRAMES.tobytes()] if t == "open" else []), t=t, **fields)
        if reply["t"] == "opened":
            self._live[reply["sid"]] = reply["committed_step"]
            self._texts += [reply["sid"], reply["resume_token"] or "k"]
        elif reply["code"] == "LIMIT" and self._live:
            self._closed(raw, self._random.choice([*self._live]))

    def _closed(self, raw: RawClient, sid: str) -> None:
        reply = self._told(raw, t="close", sid=sid)
        assert reply["t"] == "closed", reply
        self._live.pop(sid, None)

    def _told(self, raw: RawClient, *parts: bytes, **header: object) -> dict:
        rid = raw.send(header, *parts)
        reply = raw.receive()
        assert reply["rid"] == rid, (header, reply)
        answer = reply["code"] if reply["t"] == "error" else reply["t"]
        assert answer not in ("INTERNAL", "ENGINE_FAILED", "BAD_MESSAGE"), (header, reply)
        self.answers[answer] += 1
        if reply["t"] == "frames":
            self._live[reply["sid"]] = reply["committed_step"]
        return reply

    def close_all(self) -> None:
        for sid in [*self._live]:
            self._closed(self._raws[0], sid)


@pytest.mark.parametrize("seed", range(4))
def test_crossed_keys_sids_and_tokens_get_one_reply_each_and_leave_nothing(seed, recording):
    server, raw = recording
    others = [RawClient(server.endpoint) for _ in range(2)]
    crossed = Crossed(seed, [raw, *others])
    for _ in range(REQUESTS):
        crossed.ask()
    crossed.close_all()
    assert raw.ask({"t": "heartbeat"})["sessions"] == 0
    assert raw.open()
    assert server.counters.internal.by_place() == {}
    assert {"opened", "frames", "closed", "status", "NO_SESSION"} <= set(crossed.answers)
    for other in others:
        other.close()
