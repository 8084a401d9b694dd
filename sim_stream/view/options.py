"""What ``sim-stream view`` takes beside the model. Knows no page and no server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sim_stream.errors import InvalidInput
from sim_stream.model_options import MAX_SESSIONS, ModelOptions

LOCAL_CHOICES = ("log_level", "lookahead")


@dataclass(frozen=True, kw_only=True)
class ViewOptions(ModelOptions):
    """``server`` None: one of its own, with this model and room for ``max_sessions``.

    ``subscribe``: the PUB address of ``server``, to watch other clients' sessions, too. ``key`` and
    ``server_key``: key files for a ``server`` that asks for them.
    """

    server: str | None = None
    subscribe: str | None = None
    key: Path | None = None
    server_key: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    clip: str = "day"
    video: Path | None = None
    start_s: float = 0.0
    seed: int = 0
    max_sessions: int = 4
    log_format: str = "text"
    record: Path | None = None
    record_format: str = "ffv1"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.max_sessions <= MAX_SESSIONS:
            raise InvalidInput("max_sessions", self.max_sessions, f"1..{MAX_SESSIONS}")
        if not 0 <= self.port <= 65535:
            raise InvalidInput("port", self.port, "0..65535, 0 for any free one")
        if not 0 <= self.seed < 2**53:
            raise InvalidInput("seed", self.seed, "0..2^53-1, which a page can hold")
        if self.server is None:
            self._require_no_server_options()
        else:
            self._require_no_model()

    def _require_no_server_options(self) -> None:
        for name in ("subscribe", "key", "server_key"):
            value = getattr(self, name)
            if value is not None:
                raise InvalidInput(name, value, "only beside --server, which it belongs to")

    def _require_no_model(self) -> None:
        if self.record is not None:
            raise InvalidInput("record", self.record, "nothing beside --server, which records")
        self.require_default("--server, which has its model", but=LOCAL_CHOICES)

    def own_server(self) -> list[str]:
        """The command line of a server of our own."""
        logs = ("--log-format", self.log_format)
        options = [*self.serve_options(), "--max-sessions", str(self.max_sessions), *logs]
        if self.record is not None:
            options += [f"--record={self.record}", "--record-format", self.record_format]
        return options
