"""The build's helper scripts: which torch, which Python, what a wheel may hold."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bridge.driving.page import GAP_PX, LABEL_PX, Page
from sim_stream.config import FrameSize
from sim_stream.errors import InvalidInput
from sim_stream.pipelines.tokens.runtime import Runtime
from sim_stream.video_writer import Mp4Writer
from tests.small import (
    SMALL,
    random_video_decoder,
    random_vq,
    random_world_model,
    save_weights,
)
from tools import check_wheel, closed_loop_health, install_torch, true_drive_health
from train.data.split import Drive, Split

ROOT = Path(__file__).resolve().parent.parent


def test_machine_without_gpu_never_takes_a_cuda_build() -> None:
    attempts = install_torch.plan("2.13.0", system="Linux", gpu=False)
    assert [requirement for requirement, _ in attempts] == ["torch==2.13.0+cpu"] * 2
    assert attempts[0][1] == []  # the configured index first
    assert attempts[1][1][-1] == "https://download.pytorch.org/whl/cpu"


def test_gpu_machine_and_macos_take_the_plain_build() -> None:
    for system, gpu in (("Linux", True), ("Darwin", False)):
        assert install_torch.plan("2.13.0", system=system, gpu=gpu) == [("torch==2.13.0", [])]


def test_driver_without_a_gpu_counts_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for says, gpu in (("echo 'No devices were found'", False), ("echo 'GPU 0: H100'", True)):
        tool.write_text(f"#!/bin/sh\n{says}\n")
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
        assert install_torch.has_nvidia_gpu() is gpu


def test_torch_is_pinned_once_for_the_package_and_the_installer() -> None:
    version = install_torch.pinned_version((ROOT / "constraints.txt").read_text())
    assert f'"torch=={version}"' in (ROOT / "pyproject.toml").read_text()


def test_too_old_python_is_named_with_what_to_do(tmp_path: Path) -> None:
    old = tmp_path / "python3.8"
    old.write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo 'Python 3.8.10'\nexit 1\n")
    old.chmod(0o755)
    done = subprocess.run(
        [ROOT / "tools" / "find_python.sh"],
        env={**os.environ, "PYTHON": str(old)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "needs Python 3.11 to 3.14" in done.stderr and "3.8.10" in done.stderr


def test_wheel_with_foreign_or_missing_files_is_refused() -> None:
    whole = [*check_wheel.NEEDED, "sim_stream/weights/pocket/vq_model.safetensors"]
    assert check_wheel.complaints([*whole, "sim_stream-0.1.0.dist-info/METADATA"]) == []
    assert check_wheel.complaints([*whole, "train/data.py"]) == [
        "train/data.py does not belong into the wheel"
    ]
    assert check_wheel.complaints(whole[1:]) == [f"{whole[0]} is missing"]


def test_closed_loop_drives_are_told_from_those_that_end(tmp_path: Path) -> None:
    """Two worlds beside each other, as `bridge drive` puts them; one predicted one turns grey, the
    sky of another one green."""
    rng, side = np.random.default_rng(0), 64
    scene = rng.integers(0, 256, (8, 24, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    scene[:16] = 100
    drive = np.stack([scene[:, 4 * t : 4 * t + side] for t in range(24)])
    grey, green = drive.copy(), drive.copy()
    grey[12:, 16:] = 128
    green[16:, :16] = (100, 150, 100)
    covariance = np.diag([25.0, 25.0, 25.0])
    page = Page(simulator="one", neural="other", size=FrameSize.square(side), frames=24)
    canvas = np.zeros((page.height, page.width, 3), np.uint8)
    for name, made in (("goes-on", drive), ("ends", grey), ("turns", green)):
        with Mp4Writer(tmp_path / f"{name}.mp4", size=(page.height, page.width)) as writer:
            for simulated, predicted in zip(drive, made, strict=True):
                for image, left in ((simulated, GAP_PX), (predicted, 2 * GAP_PX + side)):
                    canvas[LABEL_PX : LABEL_PX + side, left : left + side] = image
                writer.write(canvas)
    videos = sorted(tmp_path.glob("*.mp4"))
    with pytest.raises(InvalidInput, match=r"frames: got 25; allowed: 1..24, the length of"):
        closed_loop_health.lives(videos, 25, covariance)
    at_12 = {"ends.mp4": [], "goes-on.mp4": [], "turns.mp4": []}
    assert closed_loop_health.lives(videos, 12, covariance) == at_12
    at_24 = at_12 | {"ends.mp4": ["frozen", "collapsed"], "turns.mp4": ["turned"]}
    assert closed_loop_health.lives(videos, 24, covariance) == at_24


def test_how_a_sky_varies_is_what_the_weights_were_measured_with(tmp_path: Path) -> None:
    measured = save_weights(tmp_path / "weights")
    path = measured / "manifest.json"
    manifest = json.loads(path.read_text())
    with pytest.raises(InvalidInput, match=r"weights: got .* without long_rollouts\.sky_covar"):
        closed_loop_health.measured_covariance(measured)
    manifest["held_out"] = {"long_rollouts": {"sky_covariance": [[2.0, 0.0], [0.0, 3.0]]}}
    path.write_text(json.dumps(manifest))
    assert np.array_equal(closed_loop_health.measured_covariance(measured), np.diag([2.0, 3.0]))


def test_true_drives_are_held_to_the_limits_of_the_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As recorded they pass, but for one that goes grey; as an untrained decoder shows them not."""
    monkeypatch.setattr(true_drive_health, "LENGTH", 18)
    split = moving_drives(tmp_path)
    starts = [0, 2, 4, 6, 24, 26]
    held = true_drive_health.hold(split, starts, np.eye(3), None)
    assert held["windows"] == len(starts) == 6 and held["alive"] == 6
    assert held["most"]["jumps"] < 0.7 and held["least"]["detail"] > 0.4
    frames = np.array(split.frames)
    frames[14:24, 8:] = 128
    grey = true_drive_health.hold(replace(split, frames=frames), starts, np.eye(3), None)
    assert grey["alive"] < 6 and grey["ends"]["collapsed"] > 0
    runtime = Runtime(SMALL, random_vq(), random_world_model(), random_video_decoder())
    decoded = true_drive_health.hold(split, starts, np.eye(3), runtime)
    assert decoded["alive"] < 6


def moving_drives(folder: Path) -> Split:
    """Two drives of 24 frames whose scene moves past, under a plain sky."""
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 256, (4, 24, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    scene[:8] = 100
    frames = np.stack([scene[:, 4 * t : 4 * t + 32] for t in range(24)] * 2)
    actions = np.tile(np.float32([8.0, 0.0]), (48, 1))
    return Split(folder, frames, actions, [Drive("a", 0, 24), Drive("b", 24, 24)])
