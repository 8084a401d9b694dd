"""The shipped pocket weights: they are what their manifest says, and they drive.

The held-out figures of the manifest come from `python -m train evaluate` on whole drives; here a
few frames of the shipped clip show that these weights, as loaded, do it.
"""

import numpy as np
import pytest
import torch

from bridge.camera import Camera
from bridge.painted import PaintedWorld
from sim_stream.clips import CLIPS
from sim_stream.config import POCKET, Action, DecodingConfig, SamplingConfig
from sim_stream.expects import CameraPose
from sim_stream.expects import psnr_db as psnr8_db
from sim_stream.models import checkpoints
from sim_stream.models.vq_model import from_pixels
from sim_stream.pipelines.tokens.runtime import Runtime
from sim_stream.video import SAMPLE, halve, read_clip
from train.evaluate import far_shift_px
from train.losses import psnr_db


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return Runtime.load("pocket", device="cpu", max_sessions=16)


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return read_clip(SAMPLE, frames=8, size=POCKET.vq.frame)


def test_files_are_under_40_mb_and_their_hashes_hold() -> None:
    folder = checkpoints.weights_dir("pocket", None)
    manifest = checkpoints.verify(folder)
    assert sum(p.stat().st_size for p in folder.iterdir()) < 40e6
    assert {"model_id", "made_by", "stages", "held_out"} <= set(manifest)
    held_out = manifest["held_out"]
    assert held_out["reconstruction"]["image_decoder_psnr_db"] >= 28.0
    assert held_out["reconstruction"]["video_decoder_psnr_db"] >= 28.0
    next_frame = held_out["next_frame"]
    assert next_frame["predicted_psnr_db"] > next_frame["last_frame_psnr_db"]
    assert next_frame["closer_than_last_frame_share"] > 0.5
    shift = held_out["steering"]["shift_px_per_frame"]
    assert shift["left"] > shift["straight"] > shift["right"]


@torch.inference_mode()
def test_the_clip_is_reconstructed_by_both_decoders(runtime: Runtime, clip: np.ndarray) -> None:
    x = from_pixels(torch.from_numpy(clip[:3]))
    ids = runtime.encoder.encode(x)
    assert psnr_db(runtime.encoder.decode(ids), x).min() > 26.0
    assert psnr_db(runtime.video_decoder(ids[None])[0], x).min() > 26.0


def test_turning_left_moves_the_scene_right_and_the_other_way_round(
    runtime: Runtime, clip: np.ndarray
) -> None:
    shifts = {}
    for yaw in (0.25, -0.25):
        session = runtime.open_session(lookahead=0)
        session.reset(clip[:2], seed=0)
        action = Action(speed_mps=6.0, yaw_rate_radps=yaw)
        images = [session.step(action).image for _ in range(4)]
        shifts[yaw] = np.mean([far_shift_px(images[i], images[i + 1]) for i in range(3)])
    assert shifts[0.25] > 2.0
    assert shifts[-0.25] < -2.0


def test_a_session_replays_to_equal_frames(runtime: Runtime, clip: np.ndarray) -> None:
    images = []
    for _ in range(2):
        session = runtime.open_session()
        session.reset(clip[:2], seed=4)
        images.append([session.step().image for _ in range(4)])  # across one re-anchoring
    assert all(np.array_equal(a, b) for a, b in zip(*images, strict=True))


@pytest.mark.parametrize(("top_k", "temperature"), [(10, 0.6), (2048, 1.0)])
def test_jacobi_finds_the_trained_models_raster_codes_in_fewer_passes(
    runtime: Runtime, clip: np.ndarray, top_k: int, temperature: float
) -> None:
    sampling = SamplingConfig(top_k=top_k, temperature=temperature)
    action = Action(speed_mps=6.0, yaw_rate_radps=0.1)
    found: dict[int, list[list[int]]] = {}
    for window in (1, 2, 7, 16, 64, 256):
        session = runtime.open_session(lookahead=0)
        decoding = DecodingConfig(strategy="jacobi", window=window)
        session.reset(clip[:2], seed=1, sampling=sampling, decoding=decoding)
        ids, passes = [], 0
        for _ in range(3):  # the last one after re-anchoring
            passes += len(session.predict(action).accepted)
            ids.append(session.latest_ids.tolist())
        found[window] = ids
        assert passes == 3 * 256 if window == 1 else passes < 0.8 * 3 * 256
    assert all(ids == found[1] for ids in found.values())


@pytest.fixture(scope="module")
def prompted() -> Runtime:
    """With rows of its own: the tests above leave their sessions open."""
    return Runtime.load("pocket", device="cpu", max_sessions=2)


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("frames", [1, 2, 4])
def test_a_prompt_of_each_shipped_clip_is_of_the_models_own_world(
    prompted: Runtime, name: str, frames: int
) -> None:
    prompt = read_clip(CLIPS[name], frames=frames, size=POCKET.vq.frame)
    assert prompt_psnr_db(prompted, prompt) >= prompted.expects.prompt_psnr_own_db


@pytest.mark.parametrize("what", ["grey", "black", "noise", "upside down", "painted"])
@pytest.mark.parametrize("frames", [1, 2])
def test_a_prompt_of_another_world_is_foreign(
    prompted: Runtime, clip: np.ndarray, what: str, frames: int
) -> None:
    """As far below the least as the clips are above it, or nearly: no accident of one picture."""
    shape = (frames, *clip.shape[1:])
    worlds = {
        "grey": np.full(shape, 128, np.uint8),
        "black": np.zeros(shape, np.uint8),
        "noise": np.random.default_rng(0).integers(0, 256, shape, np.uint8),
        "upside down": clip[:frames, ::-1],
        "painted": np.stack([halve(PaintedWorld(size_px=512).reset(7).frame)] * frames),
    }
    assert prompt_psnr_db(prompted, worlds[what]) < prompted.expects.prompt_psnr_min_db - 4.0


def prompt_psnr_db(runtime: Runtime, prompt: np.ndarray) -> float:
    """The same whatever the lookahead, and of a fork."""
    found = set()
    for lookahead in (0, 1):
        with runtime.open_session(lookahead=lookahead) as session:
            first = session.reset(prompt, seed=0)
            with session.fork() as fork:
                found |= {session.prompt_psnr_db, fork.prompt_psnr_db}
            found.add(psnr8_db(prompt[-1], first.image))
    (only,) = found
    return only


def test_the_weights_say_what_they_expect(prompted: Runtime) -> None:
    """The bridge's camera is the one that the training drives were recorded with."""
    expects, camera = prompted.expects, Camera()
    assert (expects.prompt_psnr_min_db, expects.prompt_psnr_own_db) == (25.0, 28.0)
    assert expects.camera == CameraPose(
        field_of_view_deg=camera.field_of_view_deg,
        up_m=camera.up_m,
        pitch_down_deg=camera.pitch_down_deg,
    )
    assert expects.actions == {"speed_mps": "end", "yaw_rate_radps": "mean"}
    manifest = checkpoints.read_manifest(checkpoints.weights_dir("pocket", None))
    drives = manifest["held_out"]["reconstruction"]["video_decoder_psnr_db_by_drive"].values()
    assert min(drives) >= expects.prompt_psnr_own_db
