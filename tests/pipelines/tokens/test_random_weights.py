"""A runtime without files: the preset's own shapes, steps like any other, the same every time."""

import numpy as np
import torch

from sim_stream.pipelines.tokens.random_weights import random_runtime
from sim_stream.pipelines.tokens.runtime import Runtime


def test_it_has_the_shapes_and_types_of_the_real_one() -> None:
    real, random = Runtime.load("pocket", device="cpu"), random_runtime("pocket", device="cpu")
    for part in ("encoder", "world_model", "video_decoder"):
        expected, found = (getattr(runtime, part).state_dict() for runtime in (real, random))
        assert {k: (v.shape, v.dtype) for k, v in found.items()} == {
            k: (v.shape, v.dtype) for k, v in expected.items()
        }
    assert (random.model_id, random.weights_sha256) == ("pocket-random", "")


def test_it_drives_and_gives_the_same_frames_every_time() -> None:
    prompt = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
    images = []
    for _ in range(2):
        with random_runtime("pocket", device="cpu", max_sessions=1).open_session() as session:
            session.reset(prompt, seed=1)
            images.append(session.step().image)
            assert len(torch.unique(session.latest_ids)) > 10  # a drive, not one code
    assert images[0].std() > 1
    assert np.array_equal(*images)


def test_the_prompt_of_a_preset_that_has_one_is_stood_in_for() -> None:
    from sim_stream.config import OPENVIGA, POCKET
    from sim_stream.pipelines.tokens.random_weights import stand_in_prompt

    assert len(stand_in_prompt(OPENVIGA)) == 20 and stand_in_prompt(POCKET) == ()
