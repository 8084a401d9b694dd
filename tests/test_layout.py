"""FrameLayout and ActionBins: where ids stand and what actions they mean."""

import pytest

from sim_stream.config import OPENVIGA, POCKET, Action, ActionBins
from sim_stream.errors import InvalidInput
from sim_stream.layout import FrameLayout


def test_the_papers_frame_takes_257_positions_and_lwm_ids() -> None:
    layout = FrameLayout.of(OPENVIGA, prompt_length=20)
    assert (layout.frame_length, layout.end_of_frame, layout.end_of_video) == (257, 8192, 8193)
    assert layout.context_length(16) - layout.prompt_length == 4112
    assert layout.code_start(2) == 20 + 2 * 257
    assert layout.action_ids(None) == ()


def test_actions_stand_before_their_frame_in_unused_vision_ids() -> None:
    layout = FrameLayout.of(POCKET, prompt_length=0)
    assert layout.frame_length == 259
    assert layout.code_start(1) == 259 + 2
    ids = {
        i
        for speed in range(40)
        for yaw in range(-10, 11)
        for i in layout.action_ids(Action(speed_mps=speed, yaw_rate_radps=yaw / 10))
    } | set(layout.action_ids(None))
    assert min(ids) == layout.end_of_video + 1
    assert max(ids) == layout.end_of_video + layout.bins.total
    assert max(ids) < POCKET.world_model.vision_vocab_size


def test_yaw_bins_are_symmetric_fine_in_the_middle_and_clamped() -> None:
    bins = ActionBins()
    straight = bins.yaw_bin(0.0)
    assert straight == (bins.yaw_bins - 1) // 2
    for yaw in (0.01, 0.1, 0.3, 0.8, 5.0):
        assert bins.yaw_bin(yaw) - straight == straight - bins.yaw_bin(-yaw) > 0
    assert bins.yaw_bin(5.0) == bins.yaw_bins - 1
    # No bin is so narrow that a moving car is never in it: straight on was one.
    drifts = [bins.yaw_bin(yaw) for yaw in (-0.0018, -0.0001, 0.0, 0.0001, 0.0018)]
    assert drifts == [straight] * 5
    assert bins.yaw_bin(0.002) == straight + 2
    assert ActionBins(straight_bins=1).yaw_bin(0.0018) == straight + 1
    assert bins.speed_bin(-1.0) == 0
    assert bins.speed_bin(99.0) == bins.speed_bins - 1


@pytest.mark.parametrize("count", [0, 2, -1, 65])
def test_a_middle_that_cannot_be_merged_is_refused_by_name(count: int) -> None:
    with pytest.raises(InvalidInput, match=f"straight_bins: got {count}"):
        ActionBins(straight_bins=count)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), "fast"])
@pytest.mark.parametrize("field", ["speed_mps", "yaw_rate_radps"])
def test_actions_that_are_not_finite_numbers_are_refused(field: str, value: object) -> None:
    values = {"speed_mps": 1.0, "yaw_rate_radps": 0.0, field: value}
    with pytest.raises(InvalidInput, match=rf"action\.{field}: got"):
        Action(**values)  # type: ignore[arg-type]


def test_a_model_without_actions_refuses_one() -> None:
    with pytest.raises(InvalidInput, match="action: got"):
        FrameLayout.of(OPENVIGA, prompt_length=0).action_ids(
            Action(speed_mps=1.0, yaw_rate_radps=0.0)
        )


@pytest.mark.parametrize("huge", [33.0, 1e9, 1e308, 1.7976931348623157e308, 10**300])
def test_numbers_beyond_the_bins_are_clamped_however_large(huge: float) -> None:
    bins = ActionBins()
    assert (bins.speed_bin(huge), bins.speed_bin(-huge)) == (bins.speed_bins - 1, 0)
    assert (bins.yaw_bin(huge), bins.yaw_bin(-huge)) == (bins.yaw_bins - 1, 0)
    assert bins.speed_bin(5e-324) == 0
    layout = FrameLayout.of(POCKET, prompt_length=0)
    assert len(layout.action_ids(Action(speed_mps=huge, yaw_rate_radps=-huge))) == 2


@pytest.mark.parametrize("value", [10**400, -(10**400), float("inf"), float("nan"), "1", None])
def test_what_no_float_holds_is_refused_as_an_action(value: object) -> None:
    with pytest.raises(InvalidInput, match="speed_mps"):
        Action(speed_mps=value, yaw_rate_radps=0.0)  # type: ignore[arg-type]
