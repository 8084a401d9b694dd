"""The three stages run, learn, resume, and pack into a folder that the runtime loads."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sim_stream.errors import CheckpointError
from sim_stream.models import checkpoints
from sim_stream.models.video_decoder import inflate
from sim_stream.models.vq_model import VQModel
from tests.small import SMALL, random_vq, random_world_model
from train.data import Drive, Split
from train.loop import LoopConfig, load_checkpoint
from train.pack import pack
from train.tokenizer import FrameBatches, TokenizerStage, kmeans
from train.video_decoder import Clips, VideoDecoderStage
from train.world_model import Sequences, WorldModelStage, code_losses, tokenize

CODEBOOK = random_vq().quantize.embedding.weight


@pytest.fixture
def split(tmp_path: Path) -> Split:
    """Two drives of a bright square that wanders over a dark road."""
    folder = tmp_path / "cache" / "train"
    folder.mkdir(parents=True)
    frames = np.full((12, 32, 32, 3), 40, np.uint8)
    for i, frame in enumerate(frames):
        frame[8:16, 2 * i : 2 * i + 8] = (200, 120, 60)
    actions = np.stack([np.full(12, 8.0), np.linspace(-0.3, 0.3, 12)], 1).astype(np.float32)
    np.save(folder / "frames.npy", frames)
    np.save(folder / "actions.npy", actions)
    drives = [Drive(id="a", start=0, length=7), Drive(id="b", start=7, length=5)]
    (folder / "drives.json").write_text(json.dumps([vars(d) for d in drives]))
    return Split.open(tmp_path / "cache", "train")


def loop(out: Path, steps: int, **options: object) -> LoopConfig:
    out.mkdir(parents=True, exist_ok=True)
    values = {"lr": 3e-3, "warmup_steps": 2, "log_every": 5, "save_every": 1000, **options}
    return LoopConfig(out=out, steps=steps, **values)  # type: ignore[arg-type]


def logged(out: Path, key: str) -> list[float]:
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [row[key] for row in rows if key in row]


def run_tokenizer(split: Split, out: Path, steps: int) -> TokenizerStage:
    torch.manual_seed(0)
    stage = TokenizerStage(SMALL.vq, FrameBatches(split, 4, 0), loop(out, steps))
    stage.run(split, frames=4)
    return stage


def run_world_model(split: Split, out: Path, steps: int, **options: object) -> WorldModelStage:
    torch.manual_seed(0)
    sequences = Sequences(split, SMALL, 4, 2, 0)
    stage = WorldModelStage(SMALL, sequences, loop(out, steps, **options), CODEBOOK)
    stage.trainer.resume()
    stage.run(sequences, runs=2)
    return stage


def test_all_stages_train_and_pack_into_weights_that_load(split: Split, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    stage = run_tokenizer(split, runs / "tokenizer", 60)
    psnr = logged(runs / "tokenizer", "psnr")
    assert psnr[-1] > psnr[0] + 3.0  # dB; it learns
    tokenize(split, stage.model)
    ids = np.load(split.folder / "ids.npy")
    assert ids.shape == (12, 64)
    assert ids.dtype == np.uint16

    run_world_model(split, runs / "world-model", 40)
    losses = logged(runs / "world-model", "loss")
    assert losses[-1] < 0.8 * losses[0]

    video = VideoDecoderStage(
        stage.model, SMALL.video_decoder, Clips(split, 2, 0), loop(runs / "video-decoder", 5)
    )
    codebook = video.model.quantize.embedding.weight.clone()
    video.run(Clips(split, 1, 0), clips=2)
    assert torch.equal(video.model.quantize.embedding.weight, codebook)

    manifest = pack(SMALL, runs, tmp_path / "weights", {"model_id": "tiny"})
    assert manifest["stages"]["tokenizer"]["steps"] == 60
    loaded = checkpoints.load(tmp_path / "weights", SMALL)
    averaged = load_checkpoint(runs / "tokenizer" / "last.pt")["ema"]["encoder.conv_in.weight"]
    assert torch.equal(loaded.vq_model.encoder.conv_in.weight, averaged.half().float())


@pytest.mark.parametrize("muon", [None, "layers."])
def test_an_interrupted_run_that_is_resumed_ends_with_the_same_weights(
    split: Split, tmp_path: Path, muon: str | None
) -> None:
    tokenize(split, random_vq())
    whole = run_world_model(split, tmp_path / "whole", 12, muon=muon)
    torch.manual_seed(0)
    parts = WorldModelStage(
        SMALL, Sequences(split, SMALL, 4, 2, 0), loop(tmp_path / "parts", 12, muon=muon), CODEBOOK
    )

    def cut(step: int) -> None:
        if step == 7:
            parts.trainer.save()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        parts.trainer.run(parts.loss, after_step=cut)
    resumed = run_world_model(split, tmp_path / "parts", 12, muon=muon)
    for key, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[key], value), key
    assert resumed.trainer.step == 12


def test_a_loss_that_is_not_finite_stops_the_run_by_name(split: Split, tmp_path: Path) -> None:
    tokenize(split, random_vq())
    stage = WorldModelStage(
        SMALL, Sequences(split, SMALL, 4, 2, 0), loop(tmp_path / "out", 5), CODEBOOK
    )
    with torch.no_grad():
        stage.model.norm.weight.fill_(torch.nan)
    with pytest.raises(CheckpointError, match="step 0: loss is nan"):
        stage.trainer.run(stage.loss)


@torch.no_grad()
def test_code_losses_score_each_code_by_all_ids_before_it(split: Split) -> None:
    tokenize(split, random_vq())
    sequences, model = Sequences(split, SMALL, 3, 1, 0), random_world_model()
    ids = sequences.at(sequences.starts[:1])
    losses = code_losses(model, sequences.layout, ids)
    layout = sequences.layout
    assert losses.shape == (1, 3, layout.codes_per_frame)
    for t, position in ((0, 0), (1, 0), (1, 17), (2, 63)):
        at = layout.code_start(t) + position
        logits = model.vision_logits(model(ids[:, :at])[:, -1], layout.num_codes)
        expected = F.cross_entropy(logits, ids[:, at])
        torch.testing.assert_close(losses[0, t, position], expected, atol=1e-5, rtol=1e-5)


def test_runs_never_cross_from_one_drive_into_the_next(split: Split) -> None:
    assert split.windows(4).tolist() == [0, 1, 2, 3, 7, 8]
    assert split.windows(6).tolist() == [0, 1]


def test_batches_depend_on_seed_step_and_rank_alone(split: Split) -> None:
    batches = [FrameBatches(split, 4, 0, rank) for rank in (0, 0, 1)]
    assert torch.equal(batches[0](3), batches[1](3))
    assert not torch.equal(batches[0](3), batches[0](4))
    assert not torch.equal(batches[0](3), batches[2](3))
    assert torch.equal(batches[0].common(3), batches[2].common(3))


def test_kmeans_finds_well_separated_centres() -> None:
    torch.manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    points = centres.repeat(50, 1) + 0.1 * torch.randn(200, 2)
    found = kmeans(points, 8)
    assert torch.cdist(centres, found).min(1).values.max() < 0.2


def test_only_the_video_decoders_temporal_taps_start_at_zero() -> None:
    vq = random_vq()
    video = inflate(vq, SMALL.video_decoder)
    assert isinstance(vq, VQModel)
    for key, value in video.state_dict().items():
        if value.ndim == 5:
            assert not value[:, :, [0, 2]].any(), key
            assert torch.equal(value[:, :, 1], vq.state_dict()[key])
