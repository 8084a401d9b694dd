"""Which engine runs the world model's steps, and that the choice changes no frame."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sim_stream.config import DecodingConfig
from sim_stream.errors import InvalidInput, Unavailable
from sim_stream.pipelines.tokens.runtime import Runtime
from sim_stream.pipelines.tokens.stack import FP32
from sim_stream.runtime.choices import Precision, pick_precision, pick_step_engine
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
    assert types("auto", cpu) == (fp32, bf16, fp32)
    assert types("bf16", cpu) == (bf16, bf16, bf16)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"architecture": "aarch64"})
    assert types("auto", cpu) == (fp32, fp32, fp32)
    assert types("auto", torch.device("cuda")) == (bf16, bf16, bf16)
    with pytest.raises(Unavailable, match="no bf16"):
        pick_precision("bf16", "auto", cpu)
    with pytest.raises(InvalidInput, match="precision: got fp4; allowed: auto, fp32, bf16, fp8"):
        pick_precision("fp4", "auto", cpu)


def types(name: str, device: torch.device) -> tuple[torch.dtype, ...]:
    precision = pick_precision(name, "auto", device)
    assert precision.quantized is None
    return precision.whole, precision.video, precision.cache


def test_a_precision_that_the_device_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    for name, needed in (("fp8", "9.0"), ("int4", "8.0")):
        with pytest.raises(Unavailable, match=rf"precision {name} .* {needed} .* here is cpu"):
            pick_precision(name, "auto", cpu)
    with pytest.raises(Unavailable, match=r"kv_precision fp8 .* here is cpu"):
        pick_precision("auto", "fp8", cpu)
    with pytest.raises(InvalidInput, match="kv_precision: got fp4; allowed: auto, fp8"):
        pick_precision("auto", "fp4", cpu)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (8, 6))
    assert pick_precision("int4", "auto", cuda).name == "int4"
    with pytest.raises(Unavailable, match=r"precision fp8 .* 9.0 .* a GPU of 8.6"):
        pick_precision("fp8", "auto", cuda)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (9, 0))
    chosen = pick_precision("fp8", "fp8", cuda)
    assert (chosen.whole, chosen.cache) == (torch.bfloat16, torch.float8_e4m3fn)


@pytest.mark.parametrize("step_engine", ["torch", "static"])
@pytest.mark.parametrize("quantized", ["fp8", "int4"])
def test_a_quantised_runtime_drives_and_replays(quantized: str, step_engine: str) -> None:
    """On the kernels' forms for CPUs, which `pick_precision` does not offer."""
    bf16 = torch.bfloat16
    precision = Precision(whole=bf16, video=bf16, cache=torch.float8_e4m3fn, quantized=quantized)
    runtime = random_runtime(SMALL, precision=precision, step_engine=step_engine)
    first, again = driven(runtime), driven(runtime)
    assert first == again
    assert first != driven(random_runtime(SMALL))


def driven(runtime: Runtime) -> list[list[int]]:
    """Codes of six frames, by jacobi decoding, across re-anchoring."""
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    rows = []
    with runtime.open_session() as session:
        session.reset(frames, seed=3, decoding=DecodingConfig(strategy="jacobi", window=8))
        for _ in range(6):
            session.predict()
            rows.append(session.latest_ids.tolist())
    return rows


def test_a_bf16_video_decoder_changes_no_id_and_hardly_a_pixel() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    sessions = [
        random_runtime(SMALL, precision=replace(FP32, video=dtype)).open_session()
        for dtype in (torch.float32, torch.bfloat16)
    ]
    for session in sessions:
        session.reset(frames, seed=3)
    for _ in range(6):
        full, half = (session.step().image.astype(int) for session in sessions)
        assert torch.equal(sessions[0].latest_ids, sessions[1].latest_ids)
        assert 0 < np.abs(full - half).mean() < 1.5
