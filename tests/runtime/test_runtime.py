"""Which engine runs the world model's steps, and that the choice changes no frame."""

import numpy as np
import pytest
import torch

from sim_stream.errors import InvalidInput, Unavailable
from sim_stream.runtime.runtime import pick_precision, pick_step_engine
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
    with pytest.raises(InvalidInput, match="step_engine: got fast; allowed: auto, torch, static"):
        pick_step_engine("fast", random_world_model())
    with pytest.raises(Unavailable, match=r"fp32 on a CPU.*bfloat16"):
        pick_step_engine("onnxruntime", random_world_model().bfloat16())
    with pytest.raises(InvalidInput, match="attention: got sdpa with step engine onnxruntime"):
        random_runtime(SMALL, attention="sdpa")
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


def test_the_video_decoder_alone_is_bf16_where_the_cpu_multiplies_bf16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu, fp32, bf16 = torch.device("cpu"), torch.float32, torch.bfloat16
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": True})
    assert pick_precision("auto", cpu) == (fp32, bf16)
    assert pick_precision("bf16", cpu) == (bf16, bf16)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"architecture": "aarch64"})
    assert pick_precision("auto", cpu) == (fp32, fp32)
    assert pick_precision("auto", torch.device("cuda")) == (bf16, bf16)
    with pytest.raises(Unavailable, match="no bf16"):
        pick_precision("bf16", cpu)
    with pytest.raises(InvalidInput, match=r"precision.*fp8.*auto, fp32, bf16"):
        pick_precision("fp8", cpu)


def test_a_bf16_video_decoder_changes_no_id_and_hardly_a_pixel() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    sessions = [
        random_runtime(SMALL, video_dtype=dtype).open_session()
        for dtype in (torch.float32, torch.bfloat16)
    ]
    for session in sessions:
        session.reset(frames, seed=3)
    for _ in range(6):
        full, half = (session.step().image.astype(int) for session in sessions)
        assert torch.equal(sessions[0].latest_ids, sessions[1].latest_ids)
        assert 0 < np.abs(full - half).mean() < 1.5
