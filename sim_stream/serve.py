"""``sim-stream serve``: loads a preset and serves it until a signal, or its parent, ends it.

Joins ``runtime``, ``wire`` and ``recording``. The one line on stdout says where the server listens;
programs that start a server read it (``READY``), everything else goes to the log on stderr: what is
loaded and compiled, too, and for people what to do next.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from sim_stream.config import DecodingConfig
from sim_stream.errors import InvalidInput, Unavailable
from sim_stream.last_resort import InternalErrors
from sim_stream.logs import progress
from sim_stream.model_options import MAX_SESSIONS, ModelOptions, as_recorded
from sim_stream.outputs import try_folder
from sim_stream.server_process import READY
from sim_stream.stop_signals import heard_signals
from sim_stream.wire.server.rates import REQUESTS_PER_S

if TYPE_CHECKING:
    from sim_stream.metrics import Metrics
    from sim_stream.recording.recorder import Recorder
    from sim_stream.stream_model import StreamModel
    from sim_stream.wire.observe import Archive
    from sim_stream.wire.server.auth import Guard

log = logging.getLogger(__name__)

MAX_LEASE_S = 1e7  # four months
MAX_RATE = 1e9


@dataclass(frozen=True, kw_only=True)
class ServeOptions(ModelOptions):
    """What ``serve`` takes beside the model; addresses as in ZeroMQ, port 0 for a free one.

    ``model``: MODULE:CALLABLE that gives a ``StreamModel``, instead of a preset. ``threads`` are
    those of one stage: world model and video decoder run side by side, and on two cores a second
    thread for either takes the other's core. ``lease_s``: a session whose client is silent for
    longer is closed. ``record``: a folder for recordings of every session. ``key``: the
    server's secret key file, ``allow``: its clients' public ones. ``metrics``: the port, or the
    host and port, of a Prometheus endpoint.
    """

    model: str | None = None
    bind: str = "tcp://127.0.0.1:5555"
    publish: str | None = None
    max_sessions: int = 4
    lease_s: float = 60.0
    until_stdin_closes: bool = False
    random_weights: bool = False
    record: Path | None = None
    record_format: str = "ffv1"
    key: Path | None = None
    allow: Path | None = None
    max_sessions_per_key: int | None = None
    requests_per_s: float = REQUESTS_PER_S
    metrics: str | None = None

    def __post_init__(self) -> None:
        """What the server would refuse when the model is loaded, which may take minutes."""
        super().__post_init__()
        if not 1 <= self.max_sessions <= MAX_SESSIONS:
            raise InvalidInput("max_sessions", self.max_sessions, f"1..{MAX_SESSIONS}")
        if self.max_sessions_per_key is not None and self.max_sessions_per_key < 1:
            raise InvalidInput("max_sessions_per_key", self.max_sessions_per_key, "1 or more")
        if not 0 < self.lease_s <= MAX_LEASE_S:
            raise InvalidInput("lease_s", self.lease_s, f"above 0, up to {MAX_LEASE_S:g} seconds")
        if not 1 <= self.requests_per_s <= MAX_RATE:
            raise InvalidInput("requests_per_s", self.requests_per_s, f"1..{MAX_RATE:g}")
        if self.random_weights and self.weights is not None:
            raise InvalidInput("weights", self.weights, "none beside --random-weights")
        if self.model is not None:
            self.require_default("--model")
            if self.random_weights:
                raise InvalidInput("random_weights", True, "nothing beside --model")


def run(options: ServeOptions) -> int:
    """Serves; 0 after SIGINT, SIGTERM or SIGHUP. Raises SimStreamError."""
    guard, errors = _guard(options), InternalErrors()
    if os.name == "posix":
        from sim_stream.wire.server.descriptors import raise_limit

        raise_limit()
    if options.record is not None:
        try_folder("record", options.record)
    with _ended_at_once_while_loading() as loaded:
        if options.until_stdin_closes:
            threading.Thread(target=stop_at_end_of_stdin, daemon=True).start()
        with _metrics(options, errors) as metrics, _recorder(options, errors) as recorder:
            _serve(options, recorder, metrics, guard, errors, loaded)
    return 0


@contextmanager
def _ended_at_once_while_loading() -> Iterator[Callable[[], None]]:
    """Until what it gives is called, a signal ends this process with status 0: nothing is open yet.

    Not by an exception: one that is raised while torch is imported may come out as another, or
    nowhere. Afterwards the server hears signals itself; those that come when it has stopped, while
    recordings are written out, change nothing.
    """
    loading = True

    def on_signal(number: int, frame: FrameType | None) -> None:
        if loading:
            os._exit(0)

    def loaded() -> None:
        nonlocal loading
        loading = False

    heard = heard_signals() if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, on_signal) for number in heard}
    try:
        yield loaded
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _guard(options: ServeOptions) -> Guard | None:
    """Keys and addresses are checked before the model, which may take minutes to load."""
    from sim_stream.wire.server.auth import Guard, require_bindable, require_free

    guard = Guard.load(options.key, options.allow)
    for name, address in (("bind", options.bind), ("publish", options.publish)):
        if address is not None:
            require_free(require_bindable(name, address, guarded=guard is not None))
    return guard


@contextmanager
def _metrics(options: ServeOptions, errors: InternalErrors) -> Iterator[Metrics | None]:
    """Answers scrapes from before the model is loaded, so that a taken port is known at once."""
    if options.metrics is None:
        yield None
        return
    if importlib.util.find_spec("prometheus_client") is None:
        raise Unavailable("--metrics needs prometheus-client: pip install 'sim-stream[metrics]'")
    from sim_stream.metrics import Metrics, exported

    metrics = Metrics(errors)
    with exported(metrics, options.metrics) as url:
        log.info("metrics at %s", url)
        yield metrics


def _recorder(
    options: ServeOptions, errors: InternalErrors
) -> AbstractContextManager[Recorder | None]:
    if options.record is None:
        return nullcontext()
    from sim_stream.recording.recorder import Recorder

    return Recorder(
        options.record,
        by="server",
        form=options.record_format,
        options=as_recorded(options) if options.model is None else None,
        errors=errors,
    )


def _archive(options: ServeOptions) -> Archive | None:
    if options.record is None:
        return None
    from sim_stream.recording.archive import RecordedSessions

    return RecordedSessions(options.record)


def _serve(
    options: ServeOptions,
    recorder: Recorder | None,
    metrics: Metrics | None,
    guard: Guard | None,
    errors: InternalErrors,
    loaded: Callable[[], None],
) -> None:
    from sim_stream.wire.observe import together
    from sim_stream.wire.server.server import StreamServer

    class AnnouncingServer(StreamServer):
        """Says on stdout where it listens, once it does."""

        def start(self) -> None:
            super().start()
            loaded()
            print(f"{READY}{self.endpoint}", flush=True)
            if not options.until_stdin_closes:  # nobody reads along
                progress.info(
                    "ready for %d sessions of %s at %s; to watch and drive one: "
                    "sim-stream view --server %s (Ctrl-C ends it)",
                    *(options.max_sessions, model.spec.model_id, self.endpoint, self.endpoint),
                )

    model = _load(options)
    server = AnnouncingServer(
        model,
        bind=options.bind,
        publish=options.publish,
        max_sessions=options.max_sessions,
        lease_s=options.lease_s,
        observer=together(recorder, metrics),
        archive=_archive(options),
        guard=guard,
        max_sessions_per_key=options.max_sessions_per_key,
        requests_per_s=options.requests_per_s,
        errors=errors,
    )
    if metrics is not None:
        metrics.watch(server.counters)
    server.serve_forever()


def _load(options: ServeOptions) -> StreamModel:
    what = f"preset {options.preset}, device {options.device}"
    if options.model is not None:
        what = f"model {options.model}"
    if sys.stderr.isatty():  # a log begins with what was loaded, or with why it was not
        progress.info("loading %s", what)
    if options.model is not None:
        from sim_stream.named_model import load_model

        return load_model(options.model)
    import torch

    from sim_stream.models.assembly import Parts
    from sim_stream.pipelines.tokens.random_weights import random_runtime
    from sim_stream.pipelines.tokens.runtime import Runtime
    from sim_stream.pipelines.tokens.world import TokenModel

    torch.set_num_threads(options.threads)
    make: Callable[..., Runtime] = random_runtime
    if not options.random_weights:
        parts = Parts(
            vqgan=options.vqgan,
            world_model=options.world_model,
            adapter=options.adapter,
            video_decoder=options.video_decoder,
        )
        make = partial(Runtime.load, weights=options.weights, parts=parts)
    runtime = make(
        options.preset,
        device=options.device,
        precision=options.precision,
        kv_precision=options.kv_precision,
        step_engine=options.step_engine,
        attention=options.attention,
        max_sessions=options.max_sessions,
        engines=options.engines,
    )
    return TokenModel(
        runtime, lookahead=options.lookahead, decoding=DecodingConfig.parse(options.decoding)
    )


def stop_at_end_of_stdin() -> None:
    """Waits; then ends this process as SIGTERM does. A parent that is gone has closed our stdin."""
    with suppress(OSError):
        while os.read(0, 4096):  # unbuffered: a lock held at exit would be fatal
            pass
    os.kill(os.getpid(), signal.SIGTERM)
