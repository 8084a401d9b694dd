"""Prometheus metrics of a server: ``sim-stream serve --metrics PORT``, the extra `metrics`.

Watches the sessions as a recorder does (``wire.observe``), on the thread that moves the messages:
some ten observations a frame there, none on the engine's threads. What the server counts anyway is
read when somebody scrapes. All of it lives in a registry of its own.

docs/viewing.md lists the names. Needs prometheus_client; ``scrapes`` answers over HTTP.
"""

from __future__ import annotations

import threading
from collections import Counter as Tally
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    ProcessCollector,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from sim_stream import __version__
from sim_stream.errors import InvalidInput, Unavailable
from sim_stream.last_resort import InternalErrors, LastResort
from sim_stream.scrapes import ScrapeServer
from sim_stream.stream_model import APPROXIMATED
from sim_stream.wire.endpoints import port_of
from sim_stream.wire.messages import Close, Error, ErrorCode, FrameInfo, Step
from sim_stream.wire.observe import Exchange
from sim_stream.wire.server.dispatch import Counters

# Fine around a frame period of 1/4 s, and down to what a stage takes on a GPU.
BUCKETS_S = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15),
    *(0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0),
)
BUCKETS_CODES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# Loops of a server that have a last resort: each is shown from the start.
PLACES = (
    *("request", "result", "delivery", "tick", "io", "observer"),
    *("engine", "decoder", "loader", "door", "connections", "recorder", "metrics"),
)
ADDRESS = "PORT or HOST:PORT with a port of 0..65535; the host is 127.0.0.1 unless given"


class Metrics:
    """An ``Observer``; ``watch`` adds what the server counts itself."""

    def __init__(self, errors: InternalErrors | None = None) -> None:
        self.errors = errors or InternalErrors()
        registry = self.registry = GuardedRegistry(self.errors)
        self._build = Info(
            "sim_stream_build", "The package and the model that it serves.", registry=registry
        )
        self._step_s = Histogram(
            "sim_stream_step_seconds",
            "From a step's receipt to sending its frame.",
            buckets=BUCKETS_S,
            registry=registry,
        )
        self._stage_s = Histogram(
            "sim_stream_stage_seconds",
            "Of a step, by stage.",
            ["stage"],
            buckets=BUCKETS_S,
            registry=registry,
        )
        self._late = Counter(
            "sim_stream_late_frames",
            "Frames of steps that took the server longer than a step's period.",
            registry=registry,
        )
        self._missed = Counter(
            "sim_stream_deadline_misses",
            "Steps with a deadline that were refused for it, or whose frame left after it.",
            ["outcome"],
            registry=registry,
        )
        self._dropped = Counter(
            "sim_stream_dropped_steps",
            "Steps superseded by newer ones in realtime mode.",
            registry=registry,
        )
        self._approximated = Counter(
            "sim_stream_approximated_frames",
            "Frames cut short by a deadline, or decoded diagonally.",
            registry=registry,
        )
        self._accepted = AcceptedCodes()
        self.registry.register(self._accepted)
        ProcessCollector(registry=self.registry)
        for outcome in ("refused", "late"):
            self._missed.labels(outcome)
        self._known = ""
        self._dropped_by: dict[str, int] = {}

    def watch(self, counters: Counters) -> None:
        """Shows a server's own counters, too."""
        self.registry.register(ServerCounters(counters))
        if counters.internal is not self.errors:
            self.registry.errors.append(counters.internal)

    def __call__(self, exchange: Exchange) -> None:
        if self._known != exchange.info.spec.model_id:
            self._describe(exchange)
        request, reply = exchange.request, exchange.reply
        if isinstance(request, Close):
            self._dropped_by.pop(exchange.sid, None)
        if not isinstance(request, Step):
            return
        if isinstance(reply, Error):
            if reply.code is ErrorCode.DEADLINE:
                self._missed.labels("refused").inc()
        elif reply.frames:
            self._step(request, reply.frames, period_s=exchange.info.spec.period_ns / 1e9)
            self._drop(exchange.sid, reply.frames[-1].dropped)

    def _step(self, request: Step, frames: Sequence[FrameInfo], *, period_s: float) -> None:
        """Times and counts of a step are said with each of its frames."""
        last = frames[-1]
        stamps_ns = last.stamps_ns
        step_s = (stamps_ns["srv_send"] - stamps_ns["srv_recv"]) / 1e9
        self._step_s.observe(step_s)
        for stage, duration_ns in last.timings_ns.items():
            self._stage_s.labels(stage).observe(duration_ns / 1e9)
        self._late.inc(len(frames) * (step_s > period_s))
        if request.deadline_ms is not None and step_s > request.deadline_ms / 1e3:
            self._missed.labels("late").inc()
        self._approximated.inc(sum(APPROXIMATED in frame.marks for frame in frames))
        self._accepted.add(last.stats.get("accepted", ()))

    def _drop(self, sid: str, so_far: int) -> None:
        """A frame says how many its session dropped in all."""
        self._dropped.inc(max(0, so_far - self._dropped_by.get(sid, 0)))
        self._dropped_by[sid] = so_far

    def _describe(self, exchange: Exchange) -> None:
        spec = exchange.info.spec
        self._known = spec.model_id
        self._build.info(
            {
                "version": __version__,
                "model_id": spec.model_id,
                "weights_sha256": spec.weights_sha256,
            }
        )


class GuardedRegistry(CollectorRegistry):
    """A collector that fails costs a scrape its own figures; the others are shown.

    Counts that with ``errors``, the loops' internal errors, which it shows last.
    """

    def __init__(self, errors: InternalErrors) -> None:
        self.errors = [errors]
        self._resort = LastResort("metrics", errors)
        self._collectors: list[Collector] = []
        super().__init__()

    def register(self, collector: Collector) -> None:
        super().register(collector)
        self._collectors.append(collector)

    def collect(self) -> Iterator[Metric]:
        for collector in [*self._collectors]:
            with self._resort.around(f"the figures of {type(collector).__name__}"):
                yield from [*collector.collect()]
        yield self._internal_errors()

    def _internal_errors(self) -> Metric:
        family = CounterMetricFamily(
            "sim_stream_internal_errors",
            "What nobody foresaw and a loop of the server survived, by the loop.",
            labels=["where"],
        )
        counts = Tally(dict.fromkeys(PLACES, 0))
        for errors in self.errors:
            counts.update(errors.by_place())
        for where, count in counts.items():
            family.add_metric([where], count)
        return family


class AcceptedCodes(Collector):
    """How many codes each pass of the world model added.

    Counts by itself: raster decoding has 256 passes in a frame, which are one entry here and would
    be 256 observations of a Histogram.
    """

    def __init__(self) -> None:
        self._tally: Tally[int] = Tally()
        self._lock = threading.Lock()

    def add(self, accepted: Sequence[float]) -> None:
        counted = Tally(round(codes) for codes in accepted)
        with self._lock:
            self._tally.update(counted)

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            tally = dict(self._tally)
        buckets = [
            (str(float(bound)), float(sum(n for codes, n in tally.items() if codes <= bound)))
            for bound in BUCKETS_CODES
        ]
        buckets.append(("+Inf", float(sum(tally.values()))))
        total = sum(codes * n for codes, n in tally.items())
        yield HistogramMetricFamily(
            "sim_stream_accepted_codes",
            "Codes that a pass of the world model added.",
            buckets=buckets,
            sum_value=float(total),
        )


class ServerCounters(Collector):
    """What the server counts itself, as it stands when somebody scrapes."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        now = self._counters
        yield GaugeMetricFamily("sim_stream_sessions", "Open sessions.", now.sessions)
        yield GaugeMetricFamily(
            "sim_stream_queue_depth", "Jobs that wait for the engine.", now.queued
        )
        yield CounterMetricFamily(
            "sim_stream_engine_progress", "Jobs that the engine finished.", now.progress
        )
        yield CounterMetricFamily(
            "sim_stream_undelivered",
            "Replies that their client was gone or too slow for.",
            now.undelivered,
        )
        yield GaugeMetricFamily(
            "sim_stream_connections", "Open connections, clients' and viewers'.", now.connections
        )
        cut_off = CounterMetricFamily(
            "sim_stream_cut_connections", "Connections that were cut off, by why.", labels=["why"]
        )
        cut_off.add_metric(["sent"], now.cut)
        cut_off.add_metric(["room"], now.evicted)
        yield cut_off
        yield CounterMetricFamily(
            "sim_stream_refused_topics",
            "Subscriptions of viewers that were refused.",
            now.refused_topics,
        )
        errors = CounterMetricFamily(
            "sim_stream_errors", "Refused requests, by error code.", labels=["code"]
        )
        for code in ErrorCode:
            errors.add_metric([code.value], now.errors[code])
        yield errors


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of ``PORT`` or ``HOST:PORT``. Raises InvalidInput."""
    host, colon, port = text.rpartition(":")
    if port_of(port) is None or (colon and not host):
        raise InvalidInput("metrics", text, ADDRESS)
    return host.strip("[]") or "127.0.0.1", int(port)


@contextmanager
def exported(metrics: Metrics, address: str) -> Iterator[str]:
    """Answers scrapes in a thread; its URL. Raises InvalidInput, Unavailable."""
    host, port = parse_address(address)
    try:
        server = ScrapeServer(metrics.registry, host, port, metrics.errors)
    except (OSError, UnicodeError) as error:  # the latter: a host that can be no name
        reason = getattr(error, "strerror", None) or error
        raise Unavailable(f"cannot serve metrics at {address}: {reason}") from error
    server.start()
    shown = f"[{host}]" if ":" in host else host
    try:
        yield f"http://{shown}:{server.port}/metrics"
    finally:
        server.stop()
