"""Protocols: the paper's, and rollouts of a preset on held-out drives."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sim_stream.config import SessionConfig
from sim_stream.errors import InvalidInput
from sim_stream.models import checkpoints
from sim_stream.models.vq_model import to_pixels
from sim_stream.pipelines.tokens.runtime import Runtime
from tests.small import (
    SMALL,
    random_runtime,
    random_video_decoder,
    random_vq,
    random_world_model,
    save_weights,
)
from tests.train.worlds import prepare
from train import rollout_health, rollouts, tables
from train.cli import main
from train.data.ego import action_of
from train.data.split import Drive, Split
from train.evaluate import baseline_bits, bits_per_code, reconstruction, true_shift_per_yaw
from train.evaluate import evaluate as held_out
from train.protocol import Models, Protocol, clips_of, evaluate, predicted_ids
from train.rollouts import long_rollouts, moving_starts, per_horizon, rollout

CPU = torch.device("cpu")
PROTOCOL = Protocol(videos=2, predicted=3, top_k=(1, 8), metrics=("PSNR", "SSIM", "FID"))
LENGTH = PROTOCOL.prompt + PROTOCOL.predicted
KINDS_OF_END = ("frozen", "flickering", "collapsed", "noise", "turned")


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return prepare(tmp_path)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return save_weights(tmp_path / "weights")


@pytest.fixture
def models(weights: Path) -> Models:
    return Models.load(SMALL, weights, CPU, PROTOCOL)


def test_predicted_clips_are_what_a_session_streams(
    models: Models, weights: Path, split: Split
) -> None:
    start = clips_of(split, PROTOCOL)[0]
    rows = slice(start, start + LENGTH)
    like_preset = replace(PROTOCOL, temperature=SMALL.sampling.temperature)
    top_k = SMALL.sampling.top_k
    ids = models.predict(split.images(rows), split.actions[rows], top_k, like_preset, seed=3)
    loaded = checkpoints.load(weights, SMALL)
    session_config = SessionConfig(context_frames=LENGTH, anchor_frames=1)
    runtime = Runtime(
        replace(SMALL, session=session_config),
        loaded.vq_model, loaded.world_model, loaded.video_decoder,
    )  # fmt: skip
    streamed = rollout(runtime, split, start, PROTOCOL.predicted, seed=3)
    prompt = models.encode(split.images(slice(start, start + PROTOCOL.prompt)))
    whole = torch.cat([prompt, torch.from_numpy(ids.astype(np.int64))])
    shown = to_pixels(models.decode_video(whole, PROTOCOL.prompt)).numpy()
    # Folded upsampling adds in another order: at most one grey level.
    assert np.abs(shown.astype(int) - streamed).max() <= 1


def test_the_papers_tables_stand_beside_what_was_measured(
    models: Models, split: Split, tmp_path: Path
) -> None:
    out = tmp_path / "report"
    found = evaluate(models, split, PROTOCOL, out, images=split)
    names = {"TOK+DEC", "TOK+VDEC", *(f"TOK+WM+{d} k={k}" for d in ("DEC", "VDEC") for k in (1, 8))}
    assert found["systems"].keys() == names
    for figures in found["systems"].values():
        assert len(figures["per_horizon"]["PSNR"]) == PROTOCOL.predicted
        assert "FID" not in figures
    assert found["reconstruction"]["images"] == len(split)
    text = tables.text(found)
    for words in ("Table II", "Table VI", "12.22", "132.16", "not computed: FID", "2 videos"):
        assert words in text
    assert "the paper's are of 500" in text
    ids = {
        k: predicted_ids(models, split, clips_of(split, PROTOCOL), k, PROTOCOL, out)
        for k in PROTOCOL.top_k
    }
    page = tables.page(found, models, split, PROTOCOL, ids)
    assert page.count("<img") == 2 * (1 + 1 + 2)
    json.dumps(found)


def test_an_interrupted_evaluation_predicts_only_what_is_missing(
    models: Models, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = clips_of(split, PROTOCOL)
    whole = np.array(predicted_ids(models, split, starts, 8, PROTOCOL, tmp_path / "a"))
    predict, calls = models.predict, []

    def interrupted(*args: object) -> np.ndarray:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return predict(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(models, "predict", interrupted)
    (tmp_path / "b").mkdir()
    with pytest.raises(KeyboardInterrupt):
        predicted_ids(models, split, starts, 8, PROTOCOL, tmp_path / "b")
    again = predicted_ids(models, split, starts, 8, PROTOCOL, tmp_path / "b")
    np.testing.assert_array_equal(again, whole)
    assert len(calls) == 3


def test_top_1_knows_no_chance(models: Models, split: Split) -> None:
    rows = slice(0, LENGTH)
    a, b = (
        models.predict(split.images(rows), split.actions[rows], 1, PROTOCOL, seed=s) for s in (0, 9)
    )
    np.testing.assert_array_equal(a, b)


def test_baselines_of_a_known_sequence(split: Split) -> None:
    """Of a split whose every frame is the same: copying is right each time, the unigram not."""
    path = split.folder / "ids.bin"
    ids = np.array(split.ids())
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(np.tile(np.arange(64, dtype="<u2") % 4, (len(ids), 1)).tobytes())
    found = baseline_bits(split, 32)
    assert found["unigram_bits_per_code"] == pytest.approx(2.0)
    assert found["uniform_bits_per_code"] == 5.0
    assert found["copy_last_frame_bits_per_code"] == pytest.approx(0.0)
    assert found["same_as_last_frame_share"] == 1.0


def test_bits_of_a_model_without_knowledge_are_uniform(split: Split) -> None:
    runtime = random_runtime()
    with torch.no_grad():
        runtime.world_model.vision_head.weight.zero_()
    found = bits_per_code(runtime, split, count=4)
    assert found["bits_per_code"] == pytest.approx(5.0, abs=1e-4)


@torch.inference_mode()
def test_bits_are_of_frames_that_a_session_keeps_the_first_frame_beside(split: Split) -> None:
    config = SessionConfig(context_frames=4, anchor_frames=2, sink_frames=1)
    runtime = random_runtime(replace(SMALL, session=config))
    found = bits_per_code(runtime, split, count=6)
    ids, layout, bits = torch.from_numpy(split.ids().astype("int64")), runtime.layout, []
    for first, start in ((0, 0), (0, 1), (0, 2), (0, 3), (7, 7), (7, 8)):
        rows = [first, start + 1, start + 2, start + 3]
        leads = [layout.action_ids(action_of(split.actions[row])) for row in rows]
        frames = [
            torch.tensor([*lead, *ids[row].tolist(), layout.end_of_frame])
            for lead, row in zip(leads, rows, strict=True)
        ]
        sequence = torch.cat(frames)[None]
        logits = runtime.world_model.vision_head(runtime.world_model(sequence))
        for t in (2, 3):
            at = layout.code_start(t)
            of_codes = logits[0, at - 1 : at - 1 + layout.codes_per_frame, : layout.num_codes]
            bits.append(F.cross_entropy(of_codes, ids[rows[t]]) / np.log(2))
    assert found["bits_per_code"] == pytest.approx(float(torch.stack(bits).mean()), abs=1e-4)


def test_rollouts_give_a_curve_and_shares(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.rollouts.HORIZON", 3)
    runtime = random_runtime()
    assert moving_starts(split, 5, 2) == [0, 7]
    curve = per_horizon(runtime, split, prompts=2)
    assert len(curve["predicted_psnr_db"]) == len(curve["last_frame_coarse_psnr_db"]) == 3
    found = long_rollouts(runtime, split, prompts=2, steps=5)
    assert len(found["detail_by_frame"]) == 5
    ends = [found[f"{name}_share"] for name in KINDS_OF_END]
    assert found["sky_covariance"] == np.array(found["sky_covariance"]).T.tolist()
    assert found["alive_share"] == pytest.approx(1.0 - max(ends)) or sum(ends) > 1.0


def test_a_rollout_longer_than_every_drive_is_refused_before_anything_is_measured(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = r"cache: got .* with no run of 42 frames; allowed: longer drives"
    with pytest.raises(InvalidInput, match=allowed):
        long_rollouts(random_runtime(), split)
    monkeypatch.setattr("train.evaluate.reconstruction", lambda *_: pytest.fail("measured"))
    with pytest.raises(InvalidInput, match=allowed):
        held_out(random_runtime(), split)


def test_reconstruction_is_told_for_each_drive(split: Split) -> None:
    runtime = Runtime(SMALL, random_vq(), random_world_model(), random_video_decoder())
    found = reconstruction(runtime, split, every=1)
    by_drive = found["video_decoder_psnr_db_by_drive"]
    assert list(by_drive) == ["a", "b"]  # 5 and 3 windows of three frames
    mean = (5 * by_drive["a"] + 3 * by_drive["b"]) / 8
    assert found["frames"] == 8 and found["video_decoder_psnr_db"] == pytest.approx(mean)


def test_a_drive_in_the_dark_that_stays_a_drive_is_called_one(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is shown of it is less than half of what the drives show on average."""
    frames = np.array(split.frames)
    frames[7:] //= 8
    dark = replace(split, frames=frames)
    monkeypatch.setattr(rollouts, "PROMPT", 1)
    monkeypatch.setattr(rollout_health, "FIRST", 5)

    def the_truth(runtime: object, split: Split, start: int, steps: int, seed: int) -> np.ndarray:
        return split.images(slice(start, start + 5))

    monkeypatch.setattr(rollouts, "rollout", the_truth)
    found = long_rollouts(random_runtime(), dark, prompts=4, steps=4)
    assert found["prompts"] == 4 and found["alive_share"] == 1.0
    assert found["detail_by_frame"] == pytest.approx([1.0] * 5, abs=0.2)


def drives(folder: Path, speed_mps: float, length: int = 44) -> Split:
    """Two drives that are long enough for every figure, with ids of nothing."""
    split = prepare(folder)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2 * length, 32, 32, 3), dtype=np.uint8)
    actions = np.tile(np.float32([speed_mps, 0.0]), (2 * length, 1))
    both = [Drive(id=name, start=i * length, length=length) for i, name in enumerate("ab")]
    return replace(split, frames=frames, actions=actions, drives=both)


@pytest.mark.parametrize(
    ("speed_mps", "said"), [(float("nan"), "0 have a known speed"), (0.5, "none at 2 m/s or more")]
)
def test_drives_without_motion_leave_out_the_figures_about_it_and_say_so_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    speed_mps: float, said: str,
) -> None:  # fmt: skip
    split, heard = drives(tmp_path, speed_mps), []

    def stand_in(name: str) -> Callable[..., dict[str, float]]:
        def figure(*_: object) -> dict[str, float]:
            heard.append(capsys.readouterr().err)
            return {name: 1.0}

        return figure

    names = ("reconstruction", "bits_per_code", "next_frame", "steering", "per_horizon")
    for name in (*names, "long_rollouts"):
        monkeypatch.setattr(f"train.evaluate.{name}", stand_in(name))
    found = held_out(random_runtime(), split)
    assert found.keys() == {
        "reconstruction", "world_model", "rollouts", "long_rollouts", "left_out"
    }  # fmt: skip
    assert found["left_out"].keys() == {"next_frame", "steering"}
    assert said in found["left_out"]["steering"]
    assert said in heard[0] and "next_frame is left out" in heard[0]
    moving = held_out(random_runtime(), drives(tmp_path / "m", 8.0))
    assert {"next_frame", "steering"} <= moving.keys() and "left_out" not in moving


def test_drives_that_never_turn_expect_no_shift(tmp_path: Path) -> None:
    assert true_shift_per_yaw(drives(tmp_path, 8.0)) is None


def test_a_metric_of_an_unknown_name_is_refused_before_anything_is_predicted() -> None:
    with pytest.raises(InvalidInput, match="metrics: got IS"):
        Protocol(metrics=("PSNR", "IS"))


def test_a_distance_of_too_few_samples_stands_marked_beside_the_papers(
    models: Models, split: Split, tmp_path: Path
) -> None:
    found = evaluate(models, split, replace(PROTOCOL, metrics=("PSNR",)), tmp_path / "report")
    few = {"count": 6, "sound_from": 2049, "too_small": True}
    many = {"count": 7000, "sound_from": 2049, "too_small": False}
    found["systems"]["TOK+DEC"] |= {"FID": 310.98, "samples": {"FID": few}}
    text = tables.text(found)
    assert "311 (n=6 too small: biased)" in text
    assert "FID of 6 samples is biased upwards" in text
    found["systems"]["TOK+DEC"] |= {"samples": {"FID": many}}
    text = tables.text(found)
    assert "311 (n=7000)" in text and "biased" not in text


@pytest.mark.parametrize("option", ["--out", "--write"])
def test_what_cannot_be_written_is_said_before_anything_is_measured(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("train.evaluate.evaluate", lambda *_: pytest.fail("measured"))
    taken = tmp_path / "taken"
    taken.write_text("a file")
    given = ["--out", str(taken)] if option == "--out" else ["--write", "--weights", str(taken)]
    assert main(["evaluate", "--cache", str(split.folder.parent), *given]) == 2
    assert "(not a folder); allowed: a folder that takes files" in capsys.readouterr().err
