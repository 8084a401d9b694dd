"""The three stages run, learn, and pack into a folder that the runtime loads."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sim_stream.config import SamplingConfig, SessionConfig
from sim_stream.errors import InvalidInput
from sim_stream.models import checkpoints
from sim_stream.models.video_decoder import inflate
from sim_stream.models.vq_model import VQModel
from tests.small import SMALL, random_vq, random_world_model
from tests.train.worlds import KINDS, make_split, prepare, stage_of, train
from train.build import Sources, load_vq, trained_models
from train.config import WorldModelTraining
from train.data.ids import tokenizer_sha256
from train.data.split import Split
from train.data.tokenize import tokenize
from train.pack import how_made
from train.parallel import Share
from train.sequences import Draw, Sequences
from train.tokenizer import FrameBatches, kmeans
from train.world_model import CORNER, MOST, RUN, WorldModelNet, WorldModelStage


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return prepare(tmp_path)


def logged(out: Path, key: str) -> list[float]:
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [row[key] for row in rows if key in row]


def test_all_stages_train_and_pack_into_weights_that_load(tmp_path: Path) -> None:
    split = make_split(tmp_path / "cache" / "train")
    runs = tmp_path / "runs"
    train("tokenizer", tmp_path, 60)
    runs.mkdir()
    (tmp_path / "run").rename(runs / "tokenizer")
    psnr = logged(runs / "tokenizer", "psnr")
    assert psnr[-1] > psnr[0] + 3.0  # dB; it learns
    sources = Sources(cache=tmp_path / "cache", runs=runs)
    vq = load_vq(SMALL, sources)
    tokenize(split, vq)

    train("world-model", tmp_path, 40)
    (tmp_path / "run").rename(runs / "world-model")
    losses = logged(runs / "world-model", "loss")
    assert losses[-1] < 0.8 * losses[0]

    trainer = train("video-decoder", tmp_path, 5)
    (tmp_path / "run").rename(runs / "video-decoder")
    assert trainer.step == 5

    models = trained_models(SMALL, sources, WorldModelTraining(frames=4))
    about = {"model_id": "tiny", "stages": how_made(runs)}
    manifest = checkpoints.save(tmp_path / "weights", SMALL, models, about)
    assert manifest["stages"]["tokenizer"]["steps"] == 60
    loaded = checkpoints.load(tmp_path / "weights", SMALL)
    # The ids that the world model learnt are exactly the packed tokenizer's.
    assert tokenizer_sha256(loaded.vq_model) == tokenizer_sha256(vq)
    assert torch.equal(
        loaded.vq_model.encode(split.pixels(slice(0, 4))),
        torch.from_numpy(split.ids()[:4].astype("int64")),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_share_of_a_batch_is_the_same_part_of_the_whole(split: Split, kind: str) -> None:
    stage = stage_of(kind, split)
    whole = stage.batch(3, Share())
    parts = [
        stage.batch(3, Share(rank=r, world=2, micro=m, accumulate=2))
        for m in range(2)
        for r in range(2)
    ]
    for i, tensor in enumerate(whole):
        assert torch.equal(torch.cat([part[i] for part in parts]), tensor)
    assert not torch.equal(stage.batch(4, Share())[0], whole[0])


@torch.no_grad()
def test_code_losses_score_each_code_by_all_ids_before_it(split: Split) -> None:
    sequences, model = Sequences(split, SMALL, Draw(frames=3, batch=1)), random_world_model()
    ids, layout = sequences.evenly(1), sequences.layout
    losses = WorldModelNet(model, layout, checkpointing=False).losses(ids, ends=True)
    assert losses.shape == (1, 3, layout.codes_per_frame + 1)
    for t, position in ((0, 0), (1, 0), (1, 17), (2, 63), (2, 64)):
        at = layout.code_start(t) + position
        logits = model.vision_head(model(ids[:, :at])[:, -1])[..., : layout.num_codes + 1]
        expected = F.cross_entropy(logits, ids[:, at])
        torch.testing.assert_close(losses[0, t, position], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("prompt_ids", "kept"), [((), 0), ((3, 1, 2), 0), ((), 1)], ids=str)
def test_scheduled_samplings_are_what_the_model_draws_from_the_true_ids(
    split: Split, prompt_ids: tuple[int, ...], kept: int
) -> None:
    preset = replace(SMALL, sampling=SamplingConfig(top_k=1), session=keeping(kept))
    if prompt_ids:
        preset = replace(preset, prompt="a text", actions_per_frame=0)
    config = WorldModelTraining(frames=3 + kept, scheduled_sampling=0.5, all_image_ids=False)
    draw = Draw(frames=config.drawn_frames, batch=4, sink_frames=kept)
    sequences = Sequences(split, preset, draw, prompt_ids=prompt_ids)
    stage = WorldModelStage(random_world_model(preset), preset, config, sequences)
    ids = stage.batch(0, Share())[0]
    torch.manual_seed(0)
    true, seen, counted = stage.with_scheduled_sampling(ids)
    layout, prompt = stage.net.layout, len(prompt_ids)
    length = layout.frame_length
    more = prompt + kept * length
    assert torch.equal(true, torch.cat([ids[:, :more], ids[:, more + length :]], 1))
    changed = true != seen
    assert changed[:2].any()
    assert not changed[2:].any()  # half of the sequences
    assert not changed[:, :more].any()  # nor are the drive's first frames, which a session keeps
    assert not changed[:, -length:].any()  # the last frame is nobody's context
    assert 0 < changed[:2, more : more + length].sum() < 2 * layout.codes_per_frame
    frames = changed[:, prompt:].unflatten(1, (-1, length)).any(-1)
    assert not (frames & counted).any()  # what is seen otherwise is no target
    assert counted[2:].all()
    assert counted[:, -1].all()
    assert counted[:, :kept].all()
    for row, position in changed.nonzero().tolist():
        before = ids[row : row + 1, : position + length]
        vision = torch.arange(before.shape[1])[None] >= prompt if prompt else None
        hidden = stage.net.model(before, vision)[:, -1]
        logits = stage.net.model.vision_head(hidden)[0, : layout.num_codes]
        picked = logits[seen[row, position]]
        torch.testing.assert_close(picked, logits.max(), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_scheduled_samplings_change_what_is_seen_and_not_what_is_asked(split: Split) -> None:
    sequences, model = Sequences(split, SMALL, Draw(frames=3, batch=1)), random_world_model()
    ids = sequences.evenly(1)
    net = WorldModelNet(model, sequences.layout, checkpointing=False)
    seen = net.drawn(ids, SMALL.sampling)
    start = sequences.layout.frame_length
    assert torch.equal(seen[:, :start], ids[:, :start])
    losses = net.losses(ids, seen_BS=seen)
    logits = net(seen)[0, 2, 5]
    expected = F.cross_entropy(logits, ids[0, sequences.layout.code_start(2) + 5])
    torch.testing.assert_close(losses[0, 2, 5], expected)
    assert not torch.equal(losses, net.losses(ids))


@pytest.mark.parametrize("field", ["scheduled_sampling", "token_corruption"])
def test_a_share_of_sequences_above_one_is_refused(field: str) -> None:
    with pytest.raises(InvalidInput, match=rf"{field}.*1\.5.*0 to 1"):
        WorldModelTraining(frames=4, **{field: 1.5})  # type: ignore[arg-type]


def test_a_few_codes_are_foreign_in_all_but_the_first_frame(split: Split) -> None:
    config = WorldModelTraining(frames=5, token_corruption=0.5, all_image_ids=False)
    sequences = Sequences(split, SMALL, Draw(frames=5, batch=2))
    stage = WorldModelStage(random_world_model(), SMALL, config, sequences)
    ids = torch.zeros(1000, sequences.layout.context_length(5), dtype=torch.long)
    torch.manual_seed(0)
    seen = stage.with_token_corruption(ids, torch.ones_like(ids))
    assert not ids.any(), "what is asked stays"
    frames, codes = seen.unflatten(1, (5, -1)), stage.net.image_ids(ends=False)
    assert not frames[:, 0].any()
    assert not frames[..., : codes.start].any(), "actions are the drive's own"
    assert not frames[..., codes.stop :].any()
    newer = frames[:, 1:, codes].bool()
    chosen = newer.flatten(1).any(1)
    assert 0.45 < chosen.float().mean() < 0.55
    later = newer[chosen][..., CORNER + 1 :]
    runs = later[..., : later.shape[-1] // RUN * RUN].unflatten(-1, (-1, RUN))
    assert torch.equal(runs.any(-1), runs.all(-1))
    assert 0.4 * MOST < later.float().mean() < 0.6 * MOST
    corners = newer[chosen][..., :CORNER].float().mean((0, 1))
    assert corners[0] > 0.45
    assert corners.diff().max() < 0.01


def test_another_drive_is_the_less_alike_of_two(split: Split) -> None:
    draw = Draw(frames=3, batch=500)
    sequences = Sequences(split, SMALL, draw)
    sequences.ids = np.arange(12)[:, None] // 7 + np.zeros((1, 64), np.int64)  # the drive's number
    own, others = (x.unflatten(1, (3, -1))[:, 0, 2] for x in (sequences(0), sequences.others(0)))
    both = (own == others).float().mean()
    share = torch.tensor([5.0, 3.0]) / 8  # of windows of three in each drive
    assert abs(both - (share**3).sum()) < 0.06, "only where both candidates were of its own drive"


def test_token_corruption_change_what_is_seen_and_not_what_is_asked(split: Split) -> None:
    config = WorldModelTraining(frames=3, token_corruption=1.0, all_image_ids=False)
    sequences = Sequences(split, SMALL, Draw(frames=3, batch=4))
    stage = WorldModelStage(random_world_model(), SMALL, config, sequences)
    ids, others = stage.batch(0, Share())
    assert not torch.equal(ids, others)
    torch.manual_seed(0)
    loss, _ = stage.loss(stage.net, (ids, others))
    torch.manual_seed(0)
    seen = stage.with_token_corruption(ids, others)
    torch.testing.assert_close(loss, stage.net.losses(ids, seen_BS=seen)[:, 1:].mean())
    assert not torch.equal(seen, ids)
    assert not torch.equal(loss, stage.net.losses(ids)[:, 1:].mean())


@torch.no_grad()
def test_a_text_prompt_stands_before_the_first_code_and_gets_no_loss(split: Split) -> None:
    preset = replace(SMALL, prompt="a text", actions_per_frame=0)
    draw = Draw(frames=2, batch=1)
    sequences = Sequences(split, preset, draw, prompt_ids=(3, 1, 2))
    ids, layout, model = sequences.evenly(1), sequences.layout, random_world_model(preset)
    losses = WorldModelNet(model, layout, checkpointing=False).losses(ids, ends=True)
    assert losses.shape == (1, 2, layout.codes_per_frame + 1)
    vision = torch.arange(ids.shape[1])[None] >= 3
    for t, position in ((0, 0), (0, 64), (1, 0)):
        at = layout.code_start(t) + position
        hidden = model(ids[:, :at], vision[:, :at])[:, -1]
        logits = model.vision_head(hidden)[..., : layout.num_codes + 1]
        expected = F.cross_entropy(logits, ids[:, at])
        torch.testing.assert_close(losses[0, t, position], expected, atol=1e-5, rtol=1e-5)


def keeping(sink_frames: int) -> SessionConfig:
    return SessionConfig(context_frames=4, anchor_frames=2, sink_frames=sink_frames)


def test_first_frames_are_from_any_time_of_the_drive_before(split: Split) -> None:
    tokenize(split, random_vq(), mirrored=True)
    sequences = Sequences(split, SMALL, Draw(frames=3, batch=1000, sink_frames=1))
    every = np.arange(24)[:, None].repeat(64, 1)  # codes that tell the row, mirrored ones from 12
    sequences.ids, sequences.mirrored = every[:12], every[12:]
    rows = sequences(0).unflatten(1, (3, -1))[:, :, 2].numpy()
    first, then, last = rows.T
    assert (last == then + 1).all()
    start = np.select([rows < 7, rows < 12, rows < 19], [0, 7, 12], 19)
    assert (start == start[:, :1]).all()
    assert set(then[start[:, 0] == 0]) == {1, 2, 3, 4, 5}
    assert {(f, t) for f, t in zip(first, then, strict=True) if t < 6} == {
        (f, t) for t in range(1, 6) for f in range(t)
    }
    halves = [sequences(0, Share(micro=m, accumulate=2)).numpy() for m in range(2)]
    assert np.array_equal(np.concatenate(halves), sequences(0).numpy())
    held_out = sequences.evenly(16).unflatten(1, (3, -1))[:, 0, 2]
    assert held_out.tolist() == [0] * 5 + [7] * 3 + [12] * 5 + [19] * 3


def test_what_follows_kept_frames_after_a_gap_is_context_and_no_target(split: Split) -> None:
    preset = replace(SMALL, session=keeping(1))
    config = WorldModelTraining(frames=4, all_image_ids=False)
    sequences = Sequences(split, preset, Draw(frames=4, batch=2, sink_frames=1))
    stage = WorldModelStage(random_world_model(), preset, config, sequences)
    batch = stage.batch(0, Share())
    loss, _ = stage.loss(stage.net, batch)
    torch.testing.assert_close(loss, stage.net.losses(batch[0])[:, 2:].mean())
    allowed = r"all_image_ids: got True; allowed: false .* first frames"
    with pytest.raises(InvalidInput, match=allowed):
        WorldModelStage(random_world_model(), preset, WorldModelTraining(frames=4), sequences)


def test_runs_never_cross_from_one_drive_into_the_next(split: Split) -> None:
    assert split.windows(4).tolist() == [0, 1, 2, 3, 7, 8]
    assert split.windows(6).tolist() == [0, 1]


def test_mirrored_drives_turn_the_other_way(split: Split) -> None:
    tokenize(split, random_vq(), mirrored=True)
    sequences = Sequences(split, SMALL, Draw(frames=4, batch=1))
    assert len(sequences.starts) == 2 * len(split.windows(4))
    there, mirrored = sequences.at(sequences.starts[[0, 6]])
    bins, half = SMALL.action_bins, (SMALL.action_bins.yaw_bins - 1) // 2
    first_yaw = sequences.layout.num_codes + 2 + bins.speed_bins + 1
    assert (there[1] - first_yaw - half) == -(mirrored[1] - first_yaw - half) != 0
    assert not torch.equal(there[2:66], mirrored[2:66])


def test_frames_are_mirrored_about_half_the_time(split: Split) -> None:
    plain = FrameBatches(split, 64, 0, mirror=False)(1)
    both = FrameBatches(split, 64, 0)(1)
    flipped = [not torch.equal(a, b) for a, b in zip(plain, both, strict=True)]
    assert all(torch.equal(a.flip(1), b) for a, b, f in zip(plain, both, flipped, strict=True) if f)
    assert 20 < sum(flipped) < 44


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
