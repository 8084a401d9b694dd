"""Sessions over built engines: the ids that PyTorch gives, and pixels nobody can tell apart."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sim_stream.config import Action, Preset
from sim_stream.errors import InvalidInput, Unavailable
from sim_stream.pipelines.tokens.runtime import Runtime
from sim_stream.runtime.engine import FORMS, EngineSet, Form
from sim_stream.runtime.onnx_engine import OnnxEngine
from sim_stream.runtime.torch_engine import torch_engines
from tests.engines.conftest import TINY, real_frames
from tests.small import OPENVIGA_CUT, random_runtime

CPU = torch.device("cpu")


def drive(runtime: Runtime, prompt: int, lookahead: int) -> tuple[list[np.ndarray], list[list]]:
    """Frames and ids of a reset, some steps and the flush."""
    session = runtime.open_session(lookahead=lookahead)
    frames = [session.reset(real_frames(runtime.preset, prompt).numpy(), seed=5).image]
    ids = []
    for step in range(5):
        frames.append(session.step(Action(speed_mps=5.0, yaw_rate_radps=0.1 * step)).image)
        ids.append(session.latest_ids.tolist())
    last = session.flush()
    return frames if last is None else [*frames, last.image], ids


@pytest.mark.parametrize(
    "preset",
    [TINY, pytest.param(OPENVIGA_CUT, marks=pytest.mark.slow)],
    ids=lambda preset: preset.name,
)
@pytest.mark.parametrize("prompt", [1, 2, 3])
@pytest.mark.parametrize("lookahead", [0, 1])
def test_onnx_engines_give_the_same_ids_and_frames(
    built: Callable[[Preset], Path], preset: Preset, prompt: int, lookahead: int
) -> None:
    expected, expected_ids = drive(random_runtime(preset), prompt, lookahead)
    runtime = random_runtime(preset, engines=built(preset))
    assert runtime.engines.description.startswith("onnxruntime 1.")
    frames, ids = drive(runtime, prompt, lookahead)
    assert ids == expected_ids
    assert len(frames) == len(expected)
    for found, wanted in zip(frames, expected, strict=True):
        # sums in another order; a value on .5 may round either way
        assert np.abs(found.astype(int) - wanted).max() <= 1


def test_more_frames_than_the_largest_batch_are_encoded_in_turns(
    built: Callable[[Preset], Path],
) -> None:
    frames = real_frames(TINY, 11)
    eager, engines = random_runtime(TINY), random_runtime(TINY, engines=built(TINY))
    assert torch.equal(engines.engines.encode(frames), eager.engines.encode(frames))


def test_an_onnx_engine_reads_the_callers_memory_whatever_its_layout(
    built: Callable[[Preset], Path],
) -> None:
    engines = random_runtime(TINY, engines=built(TINY)).engines
    frames = real_frames(TINY, 4)
    mirrored = frames.flip(2)
    assert torch.equal(engines.encode(mirrored[::2]), engines.encode(mirrored[::2].clone()))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # torch's own, on import
def test_compiled_engines_equal_eager_ones() -> None:
    eager, compiled = random_runtime(TINY), random_runtime(TINY, engines="compiled")
    assert compiled.engines.description == "torch compiled"
    frames = real_frames(TINY, 3)
    ids = eager.engines.encode(frames)
    assert torch.equal(compiled.engines.encode(frames), ids)
    found, wanted = (r.engines.decode_frame(ids[None], 1).int() for r in (compiled, eager))
    assert (found - wanted).abs().max() <= 1  # fused operators round elsewhere


def test_what_cannot_run_here_is_refused() -> None:
    runtime = random_runtime(TINY)
    with pytest.raises(Unavailable, match="cuda-graph were asked for, which device cpu cannot"):
        torch_engines(runtime.encoder, runtime.video_decoder, "cuda-graph", CPU)
    with pytest.raises(InvalidInput, match=r"faster.*eager, compiled, cuda-graph"):
        torch_engines(runtime.encoder, runtime.video_decoder, "faster", CPU)
    with pytest.raises(InvalidInput, match=r"window.*video_decoder_4_1.*video_decoder_3_1"):
        runtime.engines.decode_frame(torch.zeros(1, 4, 64, dtype=torch.int64), 1)
    with pytest.raises(InvalidInput, match=r"none for encoder, video_decoder_3_1"):
        EngineSet({}, description="nothing")
    with pytest.raises(InvalidInput, match=r"part.*world_model.*encoder, video_decoder"):
        Form(part="world_model")


def test_every_window_of_a_session_has_a_form() -> None:
    windows = {(form.frames, form.emit) for form in FORMS[1:]}
    right = {(frames, frames - 1) for frames in (1, 2, 3)}
    assert windows == right | {(2, 0), (3, 1)}


def test_the_cuda_provider_is_refused_where_this_build_lacks_it(
    built: Callable[[Preset], Path],
) -> None:
    from sim_stream.runtime.engine_manifest import engine_path, read_engine

    folder = built(TINY)
    manifest = read_engine(engine_path(folder, FORMS[0]))
    with pytest.raises(Unavailable, match="no CUDAExecutionProvider"):
        OnnxEngine(folder / manifest.files[0], manifest.graph, provider="cuda")
