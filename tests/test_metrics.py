"""Prometheus metrics of a real server, scraped over HTTP as Prometheus would."""

from __future__ import annotations

import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sim_stream import __version__, cli, scrapes
from sim_stream.config import Action
from sim_stream.errors import InvalidInput, RemoteError, Unavailable
from sim_stream.metrics import (
    AcceptedCodes,
    GuardedRegistry,
    Metrics,
    ServerCounters,
    exported,
    parse_address,
)
from sim_stream.wire.client.blocking_client import StreamClient
from sim_stream.wire.messages import FrameInfo, FrameMessage, Step
from sim_stream.wire.observe import Exchange, together
from sim_stream.wire.server.dispatch import Dispatcher
from sim_stream.wire.server.server import StreamServer, describe
from tests.wire.test_last_resort import Plant
from tests.wire.toy import PRESET, SPEC, ToyModel, drive, prompt_frames, toy_spec

Scrape = Callable[..., float | None]
TIMEOUT_S = 10.0
NO_ACTION = Action(speed_mps=999.0, yaw_rate_radps=0.0)  # which the toy refuses


@pytest.fixture
def served() -> Iterator[tuple[StreamClient, Scrape]]:
    """A client, and ``scrape(sample, **labels)``: its value now, None when there is none."""
    metrics = Metrics()
    runtime = ToyModel(toy_spec(replace(PRESET, fps=100)))
    runtime.hooks.predict = lambda session, step: time.sleep(0.02 if step == 2 else 0.0)
    with (
        StreamServer(runtime, bind="tcp://127.0.0.1:0", observer=metrics) as server,
        exported(metrics, "0") as url,
        StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as client,
    ):
        metrics.watch(server.counters)

        def scrape(name: str, **labels: str) -> float | None:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as reply:
                text = reply.read().decode()
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    if (sample.name, sample.labels) == (f"sim_stream_{name}", labels):
                        return sample.value
            return None

        yield client, scrape


def settle(client: StreamClient) -> None:
    """The thread that counts answers these: by the second answer it has counted all before."""
    client.status()
    client.status()


def test_every_step_is_counted_with_its_stages(served):
    client, scrape = served
    with client.open(prompt_frames()) as session:
        for action in drive(3):
            session.step(action)
        settle(client)
        assert scrape("step_seconds_count") == 3
        assert scrape("step_seconds_sum") > 0
        for stage in ("world_model", "video_decode", "queue", "decode_queue"):
            assert scrape("stage_seconds_count", stage=stage) == 3
        assert scrape("stage_seconds_bucket", stage="world_model", le="0.0005") == 3  # 2 ns
        assert 1 <= scrape("late_frames_total") <= 3  # step 2 is; a busy machine delays others


def test_accepted_codes_are_a_histogram_over_passes(served):
    client, scrape = served
    with client.open(prompt_frames()) as session:
        session.step()
        session.step()
        settle(client)
        assert scrape("accepted_codes_count") == 2  # the toy takes one pass a step
        assert scrape("accepted_codes_sum") == 512
        assert scrape("accepted_codes_bucket", le="128.0") == 0
        assert scrape("accepted_codes_bucket", le="256.0") == 2


def test_refusals_are_counted_by_code(served):
    client, scrape = served
    assert scrape("errors_total", code="BAD_MESSAGE") == 0
    session = client.open(prompt_frames())
    with pytest.raises(RemoteError, match="less than 999"):  # by the engine
        session.step(NO_ACTION)
    session.close()
    with pytest.raises(RemoteError, match="NO_SESSION"):  # by the dispatcher
        session._stream._closed = False
        session.step()
    assert scrape("errors_total", code="BAD_MESSAGE") == 1
    assert scrape("errors_total", code="NO_SESSION") == 1


def test_a_missed_deadline_is_counted_by_its_outcome(served):
    client, scrape = served
    with client.open(prompt_frames()) as session:
        with pytest.raises(RemoteError, match="DEADLINE"):
            session.step(deadline_ms=0)
        session.step(deadline_ms=60_000)
        settle(client)
        assert scrape("deadline_misses_total", outcome="refused") == 1
        assert scrape("deadline_misses_total", outcome="late") == 0


def test_dropped_steps_are_counted_from_each_sessions_total():
    metrics = Metrics()
    info = describe(SPEC, max_sessions=2, max_in_flight=2, lease_s=60.0, resumable=False)
    for sid, so_far in (("a", 1), ("a", 1), ("b", 2), ("a", 4)):
        frame = FrameInfo(
            step=1,
            frame_id=1,
            lag_frames=0,
            final=True,
            dropped=so_far,
            stamps_ns={"srv_recv": 0, "srv_send": 1},
        )
        reply = FrameMessage(sid=sid, committed_step=1, frames=[frame])
        metrics(Exchange(info=info, sid=sid, request=Step(sid=sid, step=1), reply=reply))
    assert metrics.registry.get_sample_value("sim_stream_dropped_steps_total") == 6


def test_sessions_and_progress_are_what_they_are_now(served):
    client, scrape = served
    with client.open(prompt_frames()), client.open(prompt_frames()):
        settle(client)
        assert scrape("sessions") == 2
        assert scrape("engine_progress_total") == 2
    settle(client)
    assert scrape("sessions") == 0
    assert (scrape("queue_depth"), scrape("undelivered_total")) == (0, 0)


def test_what_escaped_is_counted_by_its_loop(served, monkeypatch):
    client, scrape = served
    assert scrape("internal_errors_total", where="request") == 0
    Plant(monkeypatch, Dispatcher, "_answer").left = 2
    for _ in range(2):
        with pytest.raises(RemoteError, match="INTERNAL"):
            client.status()
    assert scrape("internal_errors_total", where="request") == 2
    assert scrape("errors_total", code="INTERNAL") == 2


@pytest.mark.parametrize("collector", [ServerCounters, AcceptedCodes])
def test_a_collector_that_fails_costs_its_own_figures(collector, served, monkeypatch):
    client, scrape = served
    client.status()
    plant = Plant(monkeypatch, collector, "collect")
    plant.left = 1
    assert scrape("late_frames_total") == 0  # of another one
    assert plant.raised == 1
    assert scrape("internal_errors_total", where="metrics") == 1
    assert scrape("sessions") == 0 and scrape("accepted_codes_count") == 0


def test_the_model_is_named(served):
    client, scrape = served
    with client.open(prompt_frames()):
        settle(client)
        labels = {"version": __version__, "model_id": "toy", "weights_sha256": "0" * 64}
        assert scrape("build_info", **labels) == 1


def test_a_recorder_beside_it_sees_the_same():
    seen: list[str] = []
    metrics = Metrics()
    both = together(lambda exchange: seen.append("a"), None, lambda exchange: seen.append("b"))
    assert together(None, None) is None
    assert together(None, metrics) is metrics
    with (
        StreamServer(ToyModel(), bind="tcp://127.0.0.1:0", observer=both) as server,
        StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as client,
        client.open(prompt_frames()),
    ):  # held, or it would be closed
        settle(client)
        assert seen == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9100", ("127.0.0.1", 9100)),
        ("0.0.0.0:9100", ("0.0.0.0", 9100)),
        ("[::1]:0", ("::1", 0)),
    ],
)
def test_an_address_is_a_port_on_loopback_unless_it_names_a_host(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "x", "65536", ":9100", "host:", "-1", "9" * 5000, "\uff11", "\u00b2"]
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(InvalidInput, match="HOST:PORT"):
        parse_address(text)


def test_a_taken_port_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=f"metrics at {port}"), exported(Metrics(), str(port)):
            pass


@pytest.mark.parametrize("host", ["\udcff", "x" * 64 + ".example"])
def test_a_host_that_can_be_no_name_is_said(host):
    with pytest.raises(Unavailable, match="cannot serve metrics"), exported(Metrics(), f"{host}:0"):
        pass


def test_without_prometheus_client_the_extra_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert cli.main(["serve", "--metrics", "0"]) == cli.MISTAKE
    assert "sim-stream[metrics]" in capsys.readouterr().err


def ask(url: str, request: bytes) -> bytes:
    """All of the answer to bytes of any kind; empty where the connection was just cut."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=TIMEOUT_S) as peer:
        try:
            peer.sendall(request)
            return b"".join(iter(lambda: peer.recv(65536), b""))
        except ConnectionError:
            return b""


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 200 OK"),
        (b"GET / HTTP/1.0\n\n", b"HTTP/1.1 200 OK"),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK"),
        (b"GET /metrics?name[]=sim_stream_sessions HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK"),
        (b"GET /other HTTP/1.1\r\n\r\n", b"HTTP/1.1 404"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 9\r\n\r\n", b"HTTP/1.1 405"),
        (b"\x16\x03\x01\n\n", b"HTTP/1.1 400"),
        (b"GET //[ HTTP/1.1\r\n\r\n", b"HTTP/1.1 400"),
        (b"GET /" + b"x" * 20_000, b""),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 5_000, b""),
    ],
)
def test_a_request_gets_an_answer_or_an_end(request_, answer):
    with exported(Metrics(), "0") as url:
        assert ask(url, request_).startswith(answer)
        assert ask(url, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("version", ["abc", "1e5", "", "1.0.0;escaping=x", "9" * 5000])
def test_an_odd_format_asked_for_is_no_internal_error(version):
    metrics = Metrics()
    accept = f"application/openmetrics-text;version={version}".encode()
    with exported(metrics, "0") as url:
        answer = ask(url, b"GET / HTTP/1.1\r\nAccept: " + accept + b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200")
    assert metrics.errors.by_place() == {}


def test_half_sent_requests_make_room_for_a_scrape_and_time_out(monkeypatch):
    monkeypatch.setattr(scrapes, "REQUEST_S", 1.0)
    with exported(Metrics(), "0") as url, ExitStack() as peers:
        parts, threads = urlsplit(url), threading.active_count()
        half = [
            peers.enter_context(socket.create_connection((parts.hostname, parts.port), TIMEOUT_S))
            for _ in range(3 * scrapes.CONNECTIONS)
        ]
        for peer in half[-5:]:
            peer.sendall(b"GET /metrics HTTP/1.1\r\nHost:")
        assert ask(url, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")
        assert threading.active_count() == threads
        for peer in half:  # all are cut off, the last ones when their time is over
            with suppress(ConnectionError):
                assert peer.recv(1) == b""


def test_a_scrape_that_fails_as_a_whole_costs_no_other(caplog, monkeypatch):
    metrics = Metrics()
    with exported(metrics, "0") as url:
        plant = Plant(monkeypatch, GuardedRegistry, "_internal_errors")
        plant.left = 1
        assert ask(url, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 500")
        assert ask(url, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert "unforeseen" in caplog.text
    assert metrics.errors.by_place() == {"metrics": 1}


def test_accepting_that_fails_costs_one_connection(monkeypatch):
    metrics = Metrics()
    with exported(metrics, "0") as url:
        Plant(monkeypatch, scrapes.ScrapeServer, "_make_room").left = 1
        with suppress(OSError):
            ask(url, b"GET / HTTP/1.0\r\n\r\n")
        assert ask(url, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert metrics.errors.by_place() == {"metrics": 1}
