"""Frames that are no squares, all the way: trained on, served, recorded, replayed, shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sim_stream.config import Action, FrameSize
from sim_stream.pipelines.tokens.world import TokenModel
from sim_stream.recording.load import load
from sim_stream.recording.recorder import Recorder
from sim_stream.recording.replay import replay
from sim_stream.wire.client.blocking_client import StreamClient
from sim_stream.wire.server.server import StreamServer
from tests.small import SMALL, random_runtime, random_vq
from tests.train.worlds import loop, make_split, stage_of
from train.data.tokenize import tokenize
from train.loop import Trainer

WIDE = replace(SMALL, vq=replace(SMALL.vq, frame=FrameSize(height=64, width=128)))
PROMPT = np.random.default_rng(3).integers(0, 256, (2, 64, 128, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["tokenizer", "world-model", "video-decoder"])
def test_every_stage_trains_a_step(tmp_path: Path, kind: str) -> None:
    split = make_split(tmp_path / "cache" / "train", WIDE.vq.frame)
    if kind != "tokenizer":
        tokenize(split, random_vq(WIDE.vq))
        assert split.ids().shape[1:] == (16 * 32,)
    options = {"muon": "model.layers."} if kind == "world-model" else {}
    trainer = Trainer(
        stage_of(kind, split, batch=2, small=WIDE),
        loop(tmp_path / "run", 1, batch=2, log_every=1, **options),
    )
    trainer.run()
    assert trainer.step == 1


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    with StreamServer(TokenModel(random_runtime(WIDE)), bind="tcp://127.0.0.1:0") as server:
        yield server.endpoint


def test_a_recorded_session_replays_equal(served: str, tmp_path: Path) -> None:
    with (
        Recorder(tmp_path, by="client") as recorder,
        StreamClient(served, observer=recorder) as client,
        client.open(PROMPT, seed=1) as session,
    ):
        assert client.info.spec.frame_shape == (64, 128, 3)
        assert client.info.spec.options[1].high == 16 * 32  # type: ignore[union-attr]
        for speed in (3.0, 9.0):
            frame = session.step(Action(speed_mps=speed, yaw_rate_radps=0.1))
            assert frame.image.shape == (64, 128, 3)
    (path,) = tmp_path.glob("*.jsonl")
    report = replay(load(path), served)
    assert report.same and report.frames == 4 and report.intact_pixels == 4
