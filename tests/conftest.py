"""Fixtures that several test folders use, and the skips of tests that need more than a CPU."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path

# Before torch: test processes share the cores, and threads that wait for each other spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import av
import numpy as np
import pytest
import torch

from sim_stream import quiet

ROOT = Path(__file__).resolve().parent.parent

# Before any test module is imported: what tests alone use (Selenium) sends nothing, and a model is
# a folder or nothing.
quiet.switch_off()
os.environ.update({"DO_NOT_TRACK": "1", "SE_AVOID_STATS": "true", "HF_HUB_OFFLINE": "1"})


def _missing(marker: str) -> str | None:
    """Why tests with that marker cannot run here; None if they can."""
    if marker == "gpu":
        return None if torch.cuda.is_available() else "needs a CUDA device"
    if marker == "tensorrt":
        return None if importlib.util.find_spec("tensorrt") else "needs tensorrt (extra `tensorrt`)"
    if marker == "metadrive":
        there = (ROOT / ".venv-metadrive").is_dir()
        return None if there else "needs the simulator's environment: make metadrive"
    return None


def pytest_configure() -> None:
    """Tests that press Ctrl-C, or close the terminal, need programs that hear it: one that a shell
    starts in the background (`make test &`, `nohup`) is told not to, and so is all that it starts.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True, scope="module")
def torch_threads() -> Iterator[None]:
    """A subcommand that ran in this process sets them for good; sums depend on their number."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for marker in ("gpu", "tensorrt", "metadrive"):
        marked = [item for item in items if item.get_closest_marker(marker)]
        reason = _missing(marker) if marked else None
        for item in marked:
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real driving footage, which is extra: SIM_STREAM_REAL_DATA names it."""
    folder = os.environ.get("SIM_STREAM_REAL_DATA")
    if not folder:
        pytest.skip("SIM_STREAM_REAL_DATA is not set")
    return Path(folder)


@pytest.fixture
def write_video(tmp_path: Path) -> Callable[..., Path]:
    """``write_video(images, rate=30, name=..., times_ms=None, rotation=0, ...)``: a real file."""

    def write(
        images: Iterable[np.ndarray],
        *,
        rate: int = 30,
        name: str = "clip.mp4",
        times_ms: list[int] | None = None,
        rotation: int = 0,
        options: dict[str, str] | None = None,
        key_frames_every: int = 250,
    ) -> Path:
        path = tmp_path / name
        images = list(images)
        with av.open(str(path), "w", options=options or {}) as container:
            codec = {"g": str(key_frames_every), "crf": "10"}
            stream = container.add_stream("libx264", rate=rate, options=codec)
            stream.height, stream.width = images[0].shape[:2]
            stream.pix_fmt = "yuv420p"
            stream.codec_context.time_base = Fraction(1, 1000 if times_ms else rate)
            if rotation:
                stream.set_display_rotation(rotation)
            for index, image in enumerate(images):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts = times_ms[index] if times_ms else index
                frame.time_base = stream.codec_context.time_base
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return write


@pytest.fixture(scope="session")
def pocket_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder of the pocket preset with untrained weights: everything but pictures."""
    import torch

    from sim_stream.config import POCKET
    from sim_stream.models import checkpoints
    from sim_stream.models.video_decoder import inflate
    from sim_stream.models.vq_model import VQModel
    from sim_stream.models.world_model import WorldModel

    folder = tmp_path_factory.mktemp("weights") / "pocket"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vq_model = VQModel(POCKET.vq)
        models: dict[str, torch.nn.Module] = {
            "vq_model": vq_model,
            "world_model": WorldModel(POCKET.world_model),
            "video_decoder": inflate(vq_model, POCKET.video_decoder),
        }
    checkpoints.save(folder, POCKET, models, {"model_id": "pocket-untrained"})
    return folder
