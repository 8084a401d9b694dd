"""What weights say that they expect: read strictly, and turned into words where it is not met."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from sim_stream.errors import InvalidInput
from sim_stream.expects import Expects, is_foreign, prompt_warning, psnr_db

CAMERA = {"field_of_view_deg": 66.0, "up_m": 1.9, "pitch_down_deg": 3.5}


def test_psnr_of_equal_frames_is_the_most_and_falls_with_the_error() -> None:
    frame = np.full((8, 8, 3), 100, np.uint8)
    assert psnr_db(frame, frame) == 99.0
    assert psnr_db(frame, frame + 1) == pytest.approx(20 * math.log10(255))
    assert psnr_db(frame, frame + 10) == pytest.approx(20 * math.log10(25.5))
    # The smallest difference in the largest frame, and the largest one.
    near = np.zeros((4096, 4096, 3), np.uint8)
    near[0, 0, 0] = 1
    assert psnr_db(near, np.zeros_like(near)) == 99.0
    assert psnr_db(frame * 0, frame * 0 + 255) == 0.0


def test_a_manifest_that_says_nothing_warns_of_nothing() -> None:
    said = Expects.of_manifest({})
    assert said == Expects()
    assert not is_foreign(3.0, said.prompt_psnr_min_db)
    assert prompt_warning(3.0, None, None) == prompt_warning(None, 25.0, 28.0) == ""


def test_a_foreign_prompt_is_said_in_words() -> None:
    assert prompt_warning(25.0, 25.0, 28.0) == ""
    assert prompt_warning(19.24, 25.0, 28.0) == (
        "the model cannot show this prompt: 19.2 dB, its own world 28 dB or more; "
        "expect the drive to collapse"
    )
    assert "its own world 25 dB or more" in prompt_warning(0.0, 25.0, None)


def test_all_of_a_manifest_is_taken() -> None:
    actions = {"speed_mps": "end", "yaw_rate_radps": "mean"}
    values = {"prompt_psnr_min_db": 25, "prompt_psnr_own_db": 28.0, "camera": CAMERA}
    said = Expects.of_manifest(values | {"actions": actions})
    assert said.camera is not None and said.camera.up_m == 1.9
    assert (said.prompt_psnr_min_db, said.prompt_psnr_own_db) == (25, 28.0)
    assert said.actions == actions


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([], "expects: got list; allowed: a map"),
        (None, "expects: got NoneType"),
        ({"wings": 2}, "wings"),
        ({"prompt_psnr_min_db": "25"}, "prompt_psnr_min_db: got '25'; allowed: a number, 0..99"),
        ({"prompt_psnr_min_db": True}, "prompt_psnr_min_db: got True"),
        ({"prompt_psnr_min_db": math.nan}, "prompt_psnr_min_db: got nan"),
        ({"prompt_psnr_own_db": math.inf}, "prompt_psnr_own_db: got inf"),
        ({"prompt_psnr_min_db": 10**300}, "prompt_psnr_min_db"),
        ({"prompt_psnr_min_db": 25, "prompt_psnr_own_db": 20}, "prompt_psnr_own_db: got 20"),
        ({"camera": 66}, "camera: got int; allowed: a map"),
        ({"camera": {"up_m": 1.9}}, "CameraPose"),
        ({"camera": CAMERA | {"roll_deg": 0}}, "roll_deg"),
        ({"camera": CAMERA | {"field_of_view_deg": 0}}, "camera.field_of_view_deg: got 0"),
        ({"camera": CAMERA | {"up_m": -1}}, "camera.up_m: got -1"),
        ({"camera": CAMERA | {"pitch_down_deg": [3]}}, "camera.pitch_down_deg"),
        ({"actions": ["end"]}, "actions: got list"),
        ({"actions": {"speed_mps": "start"}}, "actions: got speed_mps: start"),
        ({"actions": {"steer": "end"}}, "actions: got steer: end"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(values: Any, said: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Expects.of_manifest(values)
    assert said in str(refused.value)
