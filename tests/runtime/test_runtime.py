"""Which engine runs the world model's steps, and that the choice changes no frame."""

import numpy as np
import pytest
import torch

from sim_stream.errors import InvalidInput, Unavailable
from sim_stream.runtime.runtime import pick_step_engine
from tests.small import SMALL, random_runtime, random_world_model


@pytest.mark.parametrize(
    ("asked", "dtype", "chosen"),
    [
        ("auto", torch.float32, "onnxruntime"),
        ("auto", torch.bfloat16, "torch"),
        ("torch", torch.float32, "torch"),
        ("onnxruntime", torch.float32, "onnxruntime"),
    ],
)
def test_the_engine_is_chosen_once(asked: str, dtype: torch.dtype, chosen: str) -> None:
    assert pick_step_engine(asked, random_world_model().to(dtype)) == chosen


def test_what_an_engine_cannot_run_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"step_engine.*fast.*auto, torch, onnxruntime"):
        pick_step_engine("fast", random_world_model())
    with pytest.raises(Unavailable, match=r"fp32 on a CPU.*bfloat16"):
        pick_step_engine("onnxruntime", random_world_model().bfloat16())
    with pytest.raises(Unavailable, match="on meta"):
        pick_step_engine("onnxruntime", random_world_model().to("meta"))


def test_both_engines_give_the_same_frames() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    images = []
    for engine in ("torch", "onnxruntime"):
        session = random_runtime(SMALL, step_engine=engine).open_session()
        session.reset(frames, seed=3)
        images.append(np.stack([session.step().image for _ in range(7)]))
    assert np.array_equal(*images)
