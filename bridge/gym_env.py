"""``SimStream-v0``: the neural simulator as a Gymnasium environment.

    import bridge.gym_env, gymnasium
    env = gymnasium.make("SimStream-v0", endpoint="tcp://127.0.0.1:5555", max_episode_steps=80)
    frame, info = env.reset(seed=3)
    frame, reward, terminated, truncated, info = env.step([0.25, 0.1])  # shares of the most

Actions are the numbers that a step of the server's model takes, normalised, as Gymnasium
recommends: speed in [0, 1], yaw rate in [-1, 1], positive to the left, each a share of
``env.unwrapped.action_scale`` (m/s, rad/s), which the server names.

A client like any other: each environment holds one session on the server, so a vector of eight
needs ``sim-stream serve --max-sessions 8``. There is no task in it: the reward is 0 and the world
never ends, so wrap what you train for around it and say ``max_episode_steps``. Needs the extra
``gym``; knows no models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from sim_stream.config import Action, FrameSize
from sim_stream.errors import InvalidInput, RemoteError, SessionClosed
from sim_stream.prompts import fitting, read_prompt
from sim_stream.spec import NumberField, StreamSpec
from sim_stream.wire.client.blocking_client import RemoteFrame, RemoteSession, StreamClient
from sim_stream.wire.client.owner import NotCopied
from sim_stream.wire.client.patience import CONNECT_TIMEOUT_S

Frame = npt.NDArray[np.uint8]
OPTIONS = ("frames", "actions")
AT_REST = Action(speed_mps=0.0, yaw_rate_radps=0.0)


class SimStreamEnv(NotCopied, gymnasium.Env[Frame, Any]):
    """Observations are frames, uint8 [H, W, 3], of several in a step the last; an action is (speed,
    yaw rate), or whatever numbers the model takes, normalised.

    ``prompt``: a video file to start from (None: the clip by day). ``lookahead`` 0 shows the frame
    that an action led to at once; 1 shows it one step later, decoded with both neighbours. A model
    that takes no numbers has a single action, 0; one whose step needs more than numbers, or that
    starts from no frame, is refused. ``reset(seed=s)`` starts the session of seed s: equal seeds
    and actions give equal frames; without a seed it is drawn from the last one given.
    ``reset(options={"frames": ..., "actions": ...})`` starts from other frames. ``key`` and
    ``server_key`` are ``StreamClient``'s.

    A server that is gone or refuses ends the episode: ``truncated``, with ``info["error"]``.
    Raises InvalidInput, and RemoteError when the server cannot be reached or a reset fails;
    WrongOwner in a process forked from the one that made it. It has no copies: for planning, open
    another environment, or ``fork`` a session of a ``StreamClient``.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012  # Gymnasium's own

    def __init__(
        self,
        endpoint: str = "tcp://127.0.0.1:5555",
        *,
        prompt: str | Path | None = None,
        lookahead: int = 0,
        timeout_s: float = 30.0,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        render_mode: str | None = None,
        key: str | Path | None = None,
        server_key: str | Path | None = None,
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise InvalidInput("render_mode", render_mode, "rgb_array or None")
        self.render_mode = render_mode
        self._lookahead = lookahead
        self._session: RemoteSession | None = None
        self._shown: Frame | None = None
        self._client = StreamClient(
            endpoint,
            timeout_s=timeout_s,
            connect_timeout_s=connect_timeout_s,
            key=key,
            server_key=server_key,
        )
        spec = self._client.info.spec
        try:
            self._numbers = numbers_of(spec)
            height, width, _ = spec.frame_shape
            self._prompt = read_prompt(
                None if prompt is None else Path(prompt),
                size=FrameSize(height=height, width=width),
                frames=fitting(*spec.prompt_frames),
            )
        except InvalidInput:
            self._client.close()
            raise
        self.metadata = self.metadata | {"render_fps": round(spec.fps)}
        self.observation_space = spaces.Box(0, 255, spec.frame_shape, np.uint8)
        self.action_space = action_space(self._numbers)
        self.action_scale = scale_of(self._numbers)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Frame, dict[str, Any]]:
        super().reset(seed=seed)
        options = options or {}
        if unknown := sorted(set(options) - set(OPTIONS)):
            raise InvalidInput("options", ", ".join(unknown), ", ".join(OPTIONS))
        drawn = int(self.np_random.integers(2**63)) if seed is None else seed
        frames, actions = self._start_from(options)
        frame = self._restart(frames, actions, drawn)
        self._shown = frame.image.copy()
        return frame.image, self._told(frame)

    def step(self, action: Any) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        if self._session is None or self._shown is None:
            raise InvalidInput("step", "an environment without an episode", "a call after reset")
        try:
            frame = self._session.step(self._as_inputs(action))
        except (RemoteError, SessionClosed) as error:
            self._session.abandon()
            self._session = None
            return self._shown.copy(), 0.0, False, True, {"error": str(error)}
        self._shown = frame.image.copy()
        return frame.image, 0.0, False, False, self._told(frame)

    def render(self) -> Frame | None:
        """The last frame, a copy: what is drawn on it or on an observation stays there."""
        if self.render_mode != "rgb_array" or self._shown is None:
            return None
        return self._shown.copy()

    def close(self) -> None:
        """Ends the session and the connection, with which the server hears of it. Idempotent."""
        self._session = None
        self._client.close()

    def _told(self, frame: RemoteFrame) -> dict[str, Any]:
        assert self._session is not None
        return told(frame, self._session.prompt_psnr_db)

    def _start_from(self, options: dict[str, Any]) -> tuple[Any, Sequence[Action | None] | None]:
        frames = options.get("frames")
        if frames is not None or "actions" in options:
            return self._prompt.frames_THWC if frames is None else frames, options.get("actions")
        return self._prompt.frames_THWC, self._prompt.actions if takes_motion(
            self._numbers
        ) else None

    def _restart(
        self, frames: Any, actions: Sequence[Action | None] | None, seed: int
    ) -> RemoteFrame:
        """The same session anew where there is one, else another."""
        if self._session is not None:
            try:
                self._session.reset(frames, seed=seed, prompt_inputs=actions)
                return self._session.frame
            except (RemoteError, SessionClosed):
                self._session.abandon()
                self._session = None
        self._session = self._client.open(
            frames, seed=seed, prompt_inputs=actions, lookahead=self._lookahead
        )
        return self._session.frame

    def _as_inputs(self, action: Any) -> dict[str, float] | None:
        if not self._numbers:
            return None
        names = [number.name for number in self._numbers]
        allowed = f"{len(names)} numbers: {', '.join(names)}"
        try:
            values = np.asarray(action, dtype=np.float64)
        except (TypeError, ValueError, OverflowError) as error:  # texts, ragged lists, 10**400
            raise InvalidInput("action", action, allowed) from error
        if values.shape != (len(names),):
            raise InvalidInput("action", action, allowed)
        scaled: list[float] = (values * self.action_scale).tolist()
        for number, value in zip(self._numbers, scaled, strict=True):
            if not number.takes(value):
                raise InvalidInput(f"action.{number.name}", value, number.allowed)
        return dict(zip(names, scaled, strict=True))


def numbers_of(spec: StreamSpec) -> list[NumberField]:
    """Those that a step takes. Raises InvalidInput where it needs something else, or where nothing
    is to be seen before the first."""
    if not spec.prompt_frames[1]:
        raise InvalidInput(
            "server", f"{spec.model_id}, which starts from no frame", "one that does"
        )
    others = [one for one in spec.step_inputs if not isinstance(one, NumberField) and one.required]
    for other in others:
        raise InvalidInput("server", f"{spec.model_id}, whose step needs {other.name}", "numbers")
    return [one for one in spec.step_inputs if isinstance(one, NumberField)]


def takes_motion(numbers: Sequence[NumberField]) -> bool:
    return [number.name for number in numbers] == list(asdict(AT_REST))


def scale_of(numbers: Sequence[NumberField]) -> npt.NDArray[np.float64]:
    """The most of each."""
    return np.array([max(abs(number.low), abs(number.high)) or 1.0 for number in numbers])


def action_space(numbers: Sequence[NumberField]) -> spaces.Space[Any]:
    """Shares of what the server's model takes; it clamps what is beyond."""
    if not numbers:
        return spaces.Discrete(1)
    scale = scale_of(numbers)
    low, high = np.array([(number.low, number.high) for number in numbers]).T / scale
    return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)


def told(frame: RemoteFrame, prompt_psnr_db: float | None) -> dict[str, Any]:
    """What Gymnasium's ``info`` says: nothing that differs between equal episodes."""
    return {
        "step": frame.step,
        "frame_id": frame.frame_id,
        "lag_frames": frame.lag_frames,
        "approximated": frame.approximated,
        "prompt_psnr_db": prompt_psnr_db,
    }


gymnasium.register(id="SimStream-v0", entry_point="bridge.gym_env:SimStreamEnv")
