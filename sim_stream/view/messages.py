"""What travels between the page and its server: JSON, typed and bounded, on one WebSocket.

Commands come from the page; unknown ones, unknown fields and numbers out of range are refused.
Events go to it as text, and frames as binary messages: the header's length (4 bytes, big-endian),
the header (``FrameHeader``, JSON), a JPEG. Knows no sockets and no sessions.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from sim_stream.errors import ProtocolError

# The largest command is a reset; a message beyond this ends the connection.
COMMAND_BYTES = 1024

SessionId = Annotated[str, Meta(max_length=64)]
PromptName = Annotated[str, Meta(max_length=64)]
# Within what a JavaScript number holds exactly.
Seed = Annotated[int, Meta(ge=0, le=2**53 - 1)]


class Command(Struct, frozen=True, kw_only=True, tag_field="t", forbid_unknown_fields=True):
    """What a viewer asks for."""


class Watch(Command, frozen=True, kw_only=True, tag="watch"):
    """Show this session to me."""

    sid: SessionId


class Keys(Command, frozen=True, kw_only=True, tag="keys"):
    """The driving keys that are held from now on; takes the wheel when it is free."""

    sid: SessionId
    up: bool = False
    down: bool = False
    left: bool = False
    right: bool = False


class Wheel(Command, frozen=True, kw_only=True, tag="wheel"):
    """Takes the wheel, from whoever has it, or lets it go."""

    sid: SessionId
    take: bool


class Run(Command, frozen=True, kw_only=True, tag="run"):
    """Starts or pauses the stepping."""

    sid: SessionId
    running: bool


class Reset(Command, frozen=True, kw_only=True, tag="reset"):
    """The session from a prompt on, under this seed."""

    sid: SessionId
    seed: Seed
    prompt: PromptName = ""


class Fork(Command, frozen=True, kw_only=True, tag="fork"):
    """A second session that continues from here."""

    sid: SessionId


class Open(Command, frozen=True, kw_only=True, tag="open"):
    """A new session, from a prompt on. ``prompt``: its name, empty for the first."""

    seed: Seed
    prompt: PromptName = ""


class Close(Command, frozen=True, kw_only=True, tag="close"):
    """Ends a session."""

    sid: SessionId


class Seen(Command, frozen=True, kw_only=True, tag="seen"):
    """One frame was drawn: the next may come."""


AnyCommand = Watch | Keys | Wheel | Run | Reset | Fork | Open | Close | Seen
_commands = msgspec.json.Decoder(AnyCommand)


def decode_command(text: str) -> AnyCommand:
    """Raises ProtocolError."""
    try:
        command: AnyCommand = _commands.decode(text)
    except msgspec.MsgspecError as error:
        raise ProtocolError("command", text[:80], str(error)) from error
    return command


class ActionRange(Struct, frozen=True, kw_only=True):
    """One number of an action."""

    name: str
    unit: str
    low: float
    high: float


class Event(Struct, frozen=True, kw_only=True, tag_field="t"):
    """What the page is told."""


class Welcome(Event, frozen=True, kw_only=True, tag="welcome"):
    """Once, first: who you are and what the server runs. ``actions`` empty: it takes none.

    ``prompts``: the names of what a session may start from.
    """

    viewer: int
    endpoint: str
    model_id: str
    weights_sha256: str
    fps: float
    frame_shape: tuple[int, int, int]
    actions: list[ActionRange]
    max_sessions: int
    first_seed: int
    prompts: list[str]


class SessionState(Struct, frozen=True, kw_only=True):
    """One line of the session list.

    ``state``: running, paused, waiting (the server does not answer), failed, ended, or foreign:
    another client's, to be looked at only. ``late``: steps sent too late to keep the pace.
    ``warning``: that the model cannot show the session's prompt, for people.
    """

    sid: str
    name: int
    state: str
    note: str = ""
    warning: str = ""
    parent: int | None = None
    seed: int | None = None
    committed_step: int = -1
    late: int = 0
    driver: int | None = None
    viewers: int = 0


class ViewerState(Struct, frozen=True, kw_only=True):
    """``dropped``: frames that this viewer was too slow for."""

    viewer: int
    watching: str | None
    sent: int
    dropped: int


class ServerState(Struct, frozen=True, kw_only=True):
    """The server's last answer to a heartbeat. ``age_s``: how old it is."""

    age_s: float
    answer_ms: float
    queued: int
    sessions: int
    progress: int
    undelivered: int


class State(Event, frozen=True, kw_only=True, tag="state"):
    """Whenever something changed, and at least once a second.

    ``outage``: why nothing can be asked of the server now, and what to do; empty while it answers.
    """

    sessions: list[SessionState]
    viewers: list[ViewerState]
    server: ServerState | None
    outage: str = ""


class Notice(Event, frozen=True, kw_only=True, tag="notice"):
    """A refusal or a failure, for people."""

    text: str


class Ending(Event, frozen=True, kw_only=True, tag="ending"):
    """The page's server is about to go; why, and what to start again."""

    text: str


class ActionTaken(Struct, frozen=True, kw_only=True):
    """The action that a step was sent with."""

    speed_mps: float
    yaw_rate_radps: float


class FrameHeader(Struct, frozen=True, kw_only=True):
    """Leads a frame's JPEG. ``in_flight``: steps on their way.

    ``codes``: ids that the world model predicted in this step, in so many ``passes``.
    """

    sid: str
    step: int
    frame_id: int
    committed_step: int
    lag_frames: int
    final: bool
    approximated: bool
    inflated: bool
    codes: int
    passes: int
    queue_depth: int
    in_flight: int
    timings_ms: dict[str, float]
    action: ActionTaken | None = None


def encode(event: Struct) -> bytes:
    return msgspec.json.encode(event)
