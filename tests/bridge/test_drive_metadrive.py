"""The closed loop in the real MetaDrive, with the toy runtime as the neural simulator."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest

from bridge.driving.loop import Loop, Moment
from bridge.driving.measures import Divergence, Measure
from bridge.metadrive.world import MetaDriveWorld
from bridge.policies.contract import Policy
from sim_stream.config import FrameSize
from sim_stream.wire.client.blocking_client import StreamClient
from sim_stream.wire.server.server import StreamServer
from tests.wire.toy import PRESET, ToyModel, toy_spec

pytestmark = [pytest.mark.metadrive, pytest.mark.slow]
CURVE_SEED = 202  # CSSCS: a curve within the first 20 s, no car in the way


@pytest.fixture(scope="module")
def driven() -> Iterator[list[tuple[Moment, Divergence]]]:
    """Twelve seconds under lane-keep on MetaDrive's own frames."""
    preset = replace(PRESET, vq=replace(PRESET.vq, frame=FrameSize.square(256)))
    with (
        StreamServer(ToyModel(toy_spec(preset)), bind="tcp://127.0.0.1:0") as server,
        StreamClient(server.endpoint) as client,
        MetaDriveWorld(size_px=512) as world,
    ):
        loop = Loop(world, client, Policy("lane-keep"), frames=48, lead_in=8, see="simulator")
        measure = Measure(0.25)
        yield [(moment, measure(moment)) for moment in loop.run(CURVE_SEED)]


def test_lane_keep_follows_its_lane_round_a_curve(
    driven: list[tuple[Moment, Divergence]],
) -> None:
    assert len(driven) == 49 and not driven[-1][0].simulated.done
    assert all(measured.on_road for _, measured in driven)
    assert max(abs(measured.lane_offset_m) for _, measured in driven) < 0.8
    turned_rad = driven[-1][0].simulated.ego.heading_rad - driven[0][0].simulated.ego.heading_rad
    assert abs(turned_rad) > 0.3


def test_metadrives_car_does_what_the_action_says(
    driven: list[tuple[Moment, Divergence]],
) -> None:
    # The car model is right to 3 % and the last frame's error is made up for in the next.
    for moment, _ in driven[1:]:
        assert moment.simulated.ego.speed_mps == pytest.approx(moment.action.speed_mps, abs=0.2)
    asked_rad = sum(moment.action.yaw_rate_radps for moment, _ in driven[1:]) * 0.25
    turned_rad = driven[-1][1].simulator.heading_rad
    assert math.remainder(turned_rad, math.tau) == pytest.approx(asked_rad, rel=0.15)


def test_asphalt_is_seen_ahead_of_a_car_on_the_road(
    driven: list[tuple[Moment, Divergence]],
) -> None:
    assert min(measured.asphalt_simulator for _, measured in driven) > 0.6
