"""One closed-loop drive: two worlds, one policy, the same actions to both.

The simulator drives first, alone, under the same policy on its own frames; the last frames of that
lead-in seed the neural simulator. From then on the policy sees the frames of one world only, the
predicted ones unless told otherwise, and every action goes to both: as it is to the neural
simulator, as steering and throttle to the simulator (bridge/motion.py).

Knows a World, a session and a policy; no files, no pictures, no measures.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt

from bridge.motion import control_for, reachable
from bridge.policies.contract import Policy
from bridge.worlds import Control, EgoState, Observation, RoadView, RoadWorld, SceneFailed, World
from sim_stream.config import Action
from sim_stream.errors import InvalidInput
from sim_stream.prompts import SPEED_MPS
from sim_stream.spec import StreamSpec
from sim_stream.video import halve
from sim_stream.wire.client.blocking_client import RemoteFrame, RemoteSession, StreamClient

Frame = npt.NDArray[np.uint8]
See = Literal["neural", "simulator"]
COAST = Control(steer=0.0, throttle=0.0)
MAX_CONTEXT = 8
MOTION = [field.name for field in dataclasses.fields(Action)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moment:
    """The same instant in both worlds; index 0 is the last seed frame, before any prediction.

    `action` led to it in both worlds, as `control` in the simulator; `frame` is the simulator's at
    the neural simulator's size; `road` is None where the world does not tell. `over`: the
    simulator's drive had ended before, so what it shows is its last frame, and the neural one goes
    on alone.
    """

    index: int
    action: Action
    control: Control
    simulated: Observation
    frame: Frame
    road: RoadView | None
    predicted: RemoteFrame
    over: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lead:
    """The lead-in's last frames, with the motion that led to each; None: the world knows none."""

    frames: list[Frame]
    actions: list[Action | None]
    last: Action
    seen: Observation


class Loop:
    """One drive of `frames` steps; iterating over `run` drives it. The caller owns what it gets.

    `prompt_psnr_db`, `prompt_is_foreign`: of the seed frames, once they were sent.
    """

    def __init__(
        self,
        world: World,
        client: StreamClient,
        policy: Policy,
        *,
        frames: int,
        lead_in: int,
        see: See = "neural",
    ) -> None:
        self._check(world, client, lead_in)
        self._world, self._client, self._policy = world, client, policy
        self._frames, self._lead_in, self._see = frames, lead_in, see
        self.prompt_psnr_db: float | None = None
        self.prompt_is_foreign = False
        self._frame_s = 1.0 / world.fps

    def run(self, seed: int) -> Iterator[Moment]:
        """Every moment from the last seed frame on. Where the simulator's drive ends early, so does
        this one if the policy sees the simulator; else the neural simulator drives on alone.

        Raises SceneFailed, PolicyFailed, RemoteError, InvalidInput.
        """
        self._policy.start()
        lead = self._drive_in(seed)
        with self._client.open(
            np.stack(lead.frames), seed=seed, prompt_inputs=lead.actions, lookahead=0
        ) as session:
            self.prompt_psnr_db = session.prompt_psnr_db
            self.prompt_is_foreign = session.prompt_is_foreign
            yield from self._both(lead, session)

    def _both(self, lead: Lead, session: RemoteSession) -> Iterator[Moment]:
        moment = Moment(
            index=0,
            action=lead.last,
            control=COAST,
            simulated=lead.seen,
            frame=lead.frames[-1],
            road=self._road(),
            predicted=session.frame,
        )
        yield moment
        for _ in range(self._frames):
            if moment.simulated.done and self._see == "simulator":
                return
            moment = self._next(moment, session)
            yield moment

    def _next(self, now: Moment, session: RemoteSession) -> Moment:
        image = now.predicted.image if self._see == "neural" else now.frame
        action, control = self._decide(image, now.action, now.simulated.ego)
        session.send_step(action)  # the two worlds work at the same time
        over, simulated, frame, road = now.simulated.done, now.simulated, now.frame, now.road
        if not over:
            simulated = self._world.step(control)
            frame, road = self._fitted(simulated.frame), self._road()
        return Moment(
            index=now.index + 1,
            action=action,
            control=control,
            simulated=simulated,
            frame=frame,
            road=road,
            predicted=session.receive(),
            over=over,
        )

    def _drive_in(self, seed: int) -> Lead:
        """The simulator alone, for `lead_in` frames and the one it starts with."""
        seen = self._world.reset(seed)
        frames, actions = [self._fitted(seen.frame)], [_at_rest(seen.ego)]
        last = actions[0] or Action(speed_mps=SPEED_MPS, yaw_rate_radps=0.0)
        for _ in range(self._lead_in):
            wish, control = self._decide(frames[-1], last, seen.ego)
            before, seen = seen.ego, self._world.step(control)
            actions.append(_motion(before, seen.ego, self._frame_s))
            frames.append(self._fitted(seen.frame))
            last = actions[-1] or wish
            if seen.done:
                raise SceneFailed(f"the simulator's drive ended ({seen.end}) within the lead-in")
        context = min(self._client.info.spec.prompt_frames[1], MAX_CONTEXT)
        return Lead(frames=frames[-context:], actions=actions[-context:], last=last, seen=seen)

    def _decide(self, image: Frame, last: Action, ego: EgoState) -> tuple[Action, Control]:
        """The policy's decision as both worlds take it; a world without a car takes nothing."""
        wish = self._policy(image, last)
        car = self._world.car
        if car is None:
            return wish, COAST
        action = reachable(car, wish, last.speed_mps, self._frame_s)
        return action, control_for(car, action, ego, self._frame_s)

    def _road(self) -> RoadView | None:
        return self._world.road() if isinstance(self._world, RoadWorld) else None

    def _fitted(self, frame: Frame) -> Frame:
        """The simulator's frame as the model was trained on it: rendered at twice the size."""
        height, width, _ = self._client.info.spec.frame_shape
        if frame.shape[:2] == (2 * height, 2 * width):
            frame = halve(frame)
        if frame.shape != (height, width, 3):
            raise InvalidInput("world's frame", frame.shape, f"{height}x{width} or twice that")
        return frame

    @staticmethod
    def _check(world: World, client: StreamClient, lead_in: int) -> None:
        spec = client.info.spec
        least, most = spec.prompt_frames
        if [field.name for field in spec.step_inputs] != MOTION:
            raise InvalidInput("server", f"{spec.model_id}, {_instead(spec)}", "one to drive")
        if spec.frames_per_step > 1 or not most:
            given = f"{spec.model_id}, {spec.frames_per_step} frames a step from {most} at most"
            raise InvalidInput("server", given, "a frame a step, from frames of the simulator")
        if world.fps != spec.fps:
            raise InvalidInput("world's frames a second", world.fps, f"the server's {spec.fps:g}")
        if lead_in < least - 1:
            raise InvalidInput("lead-in", lead_in, f"{least - 1} or more frames")


def _instead(spec: StreamSpec) -> str:
    """What its steps take."""
    names = ", ".join(field.name for field in spec.step_inputs)
    return f"whose steps take {names}" if names else "which takes no actions"


def _at_rest(ego: EgoState) -> Action | None:
    """The first frame's motion; None where the world does not know it."""
    if math.isnan(ego.speed_mps):
        return None
    return Action(speed_mps=ego.speed_mps, yaw_rate_radps=0.0)


def _motion(before: EgoState, now: EgoState, frame_s: float) -> Action | None:
    """What led from one frame to the next, as training defines it: the turn, not the rate."""
    if math.isnan(now.speed_mps) or math.isnan(now.heading_rad):
        return None
    turned_rad = math.remainder(now.heading_rad - before.heading_rad, math.tau)
    return Action(speed_mps=now.speed_mps, yaw_rate_radps=turned_rad / frame_s)
