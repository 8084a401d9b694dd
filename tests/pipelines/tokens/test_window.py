"""FrameWindow: a ring that gives its frames in order and never moves them."""

import pytest
import torch

from sim_stream.errors import InvalidInput
from sim_stream.pipelines.tokens.window import FrameWindow


def filled(count: int) -> FrameWindow:
    window = FrameWindow(4)
    for value in range(count):
        window.push(torch.full((4,), value))
    return window


@pytest.mark.parametrize("count", range(1, 9))
def test_the_newest_frames_come_oldest_first(count: int) -> None:
    size = min(count, 3)
    assert filled(count).latest(size)[:, 0].tolist() == list(range(count - size, count))


def test_a_push_writes_one_slot_and_leaves_the_others_in_place() -> None:
    window = filled(3)
    storage, before = window.ids_3N.data_ptr(), window.ids_3N.clone()
    window.push(torch.full((4,), 9))
    assert window.ids_3N.data_ptr() == storage
    assert (window.ids_3N != before).any(1).sum() == 1


def test_what_was_read_stays_when_the_ring_goes_on() -> None:
    window = filled(3)
    read = window.latest(3)
    window.push(torch.full((4,), 9))
    assert read[:, 0].tolist() == [0, 1, 2]


def test_more_frames_than_there_are_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"frames: got 3; allowed: 1\.\.2"):
        filled(2).latest(3)
