"""What travels between the page and its server: JSON, typed and bounded, on one WebSocket.

Commands come from the page; unknown ones, unknown fields and numbers out of range are refused.
Events go to it as text, and the frames of a step as binary messages: the header's length (4 bytes,
big-endian), the header (``FrameHeader``, JSON), a JPEG for each. Knows no sockets and no sessions.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from sim_stream.errors import ProtocolError
from sim_stream.view.fields import SimpleField
from sim_stream.wire.messages import Name, Text, Values

# The largest command is a reset with all its texts; a message beyond this ends the connection.
COMMAND_BYTES = 2**19

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


class Set(Command, frozen=True, kw_only=True, tag="set"):
    """A step input that no key steers, from the next step on; null: it is not given any more.
    Takes the wheel when it is free."""

    sid: SessionId
    name: Name
    value: float | Text | None


class Wheel(Command, frozen=True, kw_only=True, tag="wheel"):
    """Takes the wheel, from whoever has it, or lets it go."""

    sid: SessionId
    take: bool


class Run(Command, frozen=True, kw_only=True, tag="run"):
    """Starts or pauses the stepping."""

    sid: SessionId
    running: bool


class Start(Command, frozen=True, kw_only=True):
    """What a session starts from. ``prompt``: its name, empty for the first. ``inputs`` are the
    session's; ``options`` left out are the model's own."""

    seed: Seed
    prompt: PromptName = ""
    inputs: Values = {}
    options: Values = {}


class Reset(Start, frozen=True, kw_only=True, tag="reset"):
    """The session anew, from this start on."""

    sid: SessionId


class Fork(Command, frozen=True, kw_only=True, tag="fork"):
    """A second session that continues from here."""

    sid: SessionId


class Open(Start, frozen=True, kw_only=True, tag="open"):
    """A new session."""


class Close(Command, frozen=True, kw_only=True, tag="close"):
    """Ends a session."""

    sid: SessionId


class Seen(Command, frozen=True, kw_only=True, tag="seen"):
    """One frame was drawn: the next may come."""


AnyCommand = Watch | Keys | Set | Wheel | Run | Reset | Fork | Open | Close | Seen
_commands = msgspec.json.Decoder(AnyCommand)


def decode_command(text: str) -> AnyCommand:
    """Raises ProtocolError."""
    try:
        command: AnyCommand = _commands.decode(text)
    except msgspec.MsgspecError as error:
        raise ProtocolError("command", text[:80], str(error)) from error
    return command


class Event(Struct, frozen=True, kw_only=True, tag_field="t"):
    """What the page is told."""


class Welcome(Event, frozen=True, kw_only=True, tag="welcome"):
    """Once, first: who you are and what the server runs.

    Of the model's fields those that a page can offer; of ``step_inputs`` the keys steer those in
    ``keyed``. ``prompts``: the names of what a session may start from. ``obstacle``: why none can
    be driven from a page; empty where one can.
    """

    viewer: int
    endpoint: str
    model_id: str
    weights_sha256: str
    fps: float
    frame_shape: tuple[int, int, int]
    frames_per_step: int
    step_inputs: list[SimpleField]
    keyed: list[str]
    session_inputs: list[SimpleField]
    options: list[SimpleField]
    max_sessions: int
    first_seed: int
    prompts: list[str]
    obstacle: str


class SessionState(Struct, frozen=True, kw_only=True):
    """One line of the session list.

    ``state``: running, paused, waiting (the server does not answer), failed, ended, or foreign:
    another client's, to be looked at only. ``late``: steps sent too late to keep the pace.
    ``warning``: that the model cannot show the session's prompt, for people. ``inputs``: what its
    next step is sent with beside what the keys steer.
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
    inputs: dict[str, float | str] = {}


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


class FrameHeader(Struct, frozen=True, kw_only=True):
    """Leads the JPEGs of the frames that left together, of ``sizes`` bytes each.

    ``frame_id`` is that of the last of ``frame_ids``. ``in_flight``: steps on their way. ``codes``:
    ids that a token model predicted in this step, in so many ``passes``. ``inputs``: what the step
    was sent with; null: unknown.
    """

    sid: str
    step: int
    frame_id: int
    frame_ids: list[int]
    sizes: list[int] = []
    committed_step: int
    lag_frames: int
    final: bool
    marks: list[str]
    codes: float
    passes: int
    queue_depth: int
    in_flight: int
    timings_ms: dict[str, float]
    inputs: dict[str, float | str] | None = None


def encode(event: Struct) -> bytes:
    return msgspec.json.encode(event)
