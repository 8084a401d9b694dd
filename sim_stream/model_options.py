"""What every subcommand that starts a server of its own says about the model, in one place.

Knows the options of ``sim-stream serve`` that choose and shape a model; nothing about processes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from sim_stream.config import DecodingConfig, from_dict, get_preset
from sim_stream.errors import InvalidInput

MAX_THREADS = 1024
MAX_SESSIONS = 4096


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """As ``sim-stream serve --help`` describes them; ``lookahead`` None is the preset's."""

    preset: str = "pocket"
    weights: Path | None = None
    vqgan: Path | None = None
    world_model: Path | None = None
    adapter: Path | None = None
    video_decoder: Path | None = None
    device: str = "auto"
    precision: str = "auto"
    kv_precision: str = "auto"
    decoding: str = DecodingConfig.strategy
    step_engine: str = "auto"
    attention: str = "auto"
    engines: str = "eager"
    lookahead: int | None = None
    threads: int = 1
    log_level: str = "warning"

    def __post_init__(self) -> None:
        get_preset(self.preset)
        DecodingConfig.parse(self.decoding)
        if not 1 <= self.threads <= MAX_THREADS:
            raise InvalidInput("threads", self.threads, f"1..{MAX_THREADS}")

    def require_default(self, beside: str, *, but: Collection[str] = ("log_level",)) -> None:
        """Nothing that chooses or shapes a model, where that is chosen already."""
        for option in fields(ModelOptions):
            value = getattr(self, option.name)
            if option.name not in but and value != option.default:
                raise InvalidInput(option.name, value, f"nothing beside {beside}")

    def serve_options(self) -> list[str]:
        """The command line of a server for one client; its lookahead comes with the session."""
        options = [
            *("--preset", self.preset, "--device", self.device, "--log-level", self.log_level),
            *("--precision", self.precision, "--step-engine", self.step_engine),
            *("--kv-precision", self.kv_precision, "--attention", self.attention),
            *("--engines", self.engines, "--decoding", self.decoding, "--max-sessions", "1"),
        ]
        named = (
            ("weights", self.weights),
            ("vqgan", self.vqgan),
            ("world-model", self.world_model),
            ("adapter", self.adapter),
            ("video-decoder", self.video_decoder),
            ("threads", self.threads),
        )
        return options + [f"--{name}={value}" for name, value in named if value is not None]


def as_recorded(options: ModelOptions) -> dict[str, str | int | None]:
    """The choices as a recording keeps them."""
    kept: dict[str, str | int | None] = {}
    for name in (field.name for field in fields(ModelOptions) if field.name != "log_level"):
        value = getattr(options, name)
        if isinstance(value, Path):
            value = _readable(str(value.resolve()))
        kept[name] = value
    return {name: value for name, value in kept.items() if value is not None}


def from_record(recorded: Mapping[str, str | int | None]) -> ModelOptions:
    """What ``as_recorded`` kept; what it did not is as usual. Raises InvalidInput."""
    kinds = {field.name: str(field.type) for field in fields(ModelOptions)}
    for name, value in recorded.items():
        if name not in kinds:
            raise InvalidInput("options", ascii(name), ", ".join(kinds))
        kind = kinds[name].split(" | ")[0]
        if type(value) is not (int if kind == "int" else str):
            raise InvalidInput(name, ascii(value), "a number" if kind == "int" else "a text")
        if isinstance(value, str) and not value.isprintable():
            raise InvalidInput(name, ascii(value), "printable characters")
    paths = {field.name for field in fields(ModelOptions) if field.type == "Path | None"}
    values = {
        name: Path(value) if name in paths and isinstance(value, str) else value
        for name, value in recorded.items()
    }
    return from_dict(ModelOptions, values)


def _readable(path: str) -> str:
    """A path whose bytes are no UTF-8 cannot be kept as it is; this is how it is shown."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
