"""Data: scan, sample and tokenize a data set in BDD100K's layout, faults and interruptions."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from bridge.recording.bdd100k import DriveWriter
from bridge.worlds import EgoState, Observation
from sim_stream.config import POCKET, Action, FrameSize
from sim_stream.errors import CheckpointError, InvalidInput, VideoError
from sim_stream.layout import FrameLayout
from sim_stream.models import checkpoints
from sim_stream.models.video_decoder import VideoDecoder
from sim_stream.models.vq_model import VQModel
from sim_stream.models.world_model import WorldModel
from tests.small import SMALL, random_vq
from tests.train.bdd100k_like import SIZE, SPEED_MPS, YAW_RADPS, build, picture, write_mov
from train.cli import main
from train.data import tokenize as tokenizing
from train.data.ego import action_ids, actions_at, track_of
from train.data.ids import IdsHeader, create_ids, open_ids, tokenizer_sha256
from train.data.manifest import ScanRules, read_manifest, scan
from train.data.plan import Sampling, make_plan
from train.data.sample import sample
from train.data.split import Split
from train.data.tokenize import tokenize, tokenize_videos
from train.data.work import Journal

RULES = ScanRules(size=FrameSize.square(SIZE))
AT_4_FPS = Sampling(fps=4.0, size=FrameSize.square(SIZE))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("bdd100k"))


@pytest.fixture(scope="module")
def manifest(root: Path) -> Path:
    scan(root, root / "scan", "train", kind="videos", rules=RULES, workers=0)
    return root / "scan" / "manifest-videos-train.jsonl"


def test_the_manifest_says_of_every_file_what_it_holds_or_why_not(manifest: Path) -> None:
    rows = {row["id"]: row for row in read_manifest(manifest)[1]}
    assert len(rows) == 9
    assert {k: r["rejected"] for k, r in rows.items() if r["rejected"]} == {
        "corrupt": rows["corrupt"]["rejected"],
        "gap": "gap of 1.03 s between two frames",
        "small": "72x54 pixels, fewer than 64x64",
    }
    assert "cut short" in rows["corrupt"]["rejected"] or "damaged" in rows["corrupt"]["rejected"]
    assert (rows["plain"]["frames"], rows["plain"]["duration_s"]) == (120, 4.0)
    assert len(rows["plain"]["sha256"]) == 64
    assert rows["odd-rate"]["frames"] == 95
    turned = rows["rotated"]
    assert turned["rotation"] % 360 in (90, 270)
    assert (turned["width"], turned["height"]) == (96, 72)
    assert rows["no-gps"]["ego"] == "no locations"
    assert rows["no-info"]["ego"] == "no info file"
    assert (rows["gps-gap"]["ego"], rows["gps-gap"]["ego_gaps"]) == ("ok", 1)


def test_a_scan_goes_on_where_it_was_and_sees_changed_files(tmp_path: Path) -> None:
    root = build(tmp_path / "set", seconds=1.0)
    out = tmp_path / "scan"
    scan(root, out, "train", kind="videos", rules=RULES, workers=0)
    path = out / "manifest-videos-train.jsonl"
    whole = path.read_text()
    # As a kill leaves it: a journal with three whole lines and a torn one.
    lines = whole.splitlines(keepends=True)
    path.unlink()
    (out / "manifest-videos-train.partial").write_text("".join(lines[:4]) + lines[4][:20])
    with pytest.raises(InvalidInput, match="scan not finished"):
        read_manifest(path)
    scan(root, out, "train", kind="videos", rules=RULES, workers=0)
    assert path.read_text() == whole
    corrupt = root / "videos" / "train" / "corrupt.mov"
    corrupt.write_bytes((root / "videos" / "train" / "plain.mov").read_bytes())
    again = scan(root, out, "train", kind="videos", rules=RULES, workers=0)
    assert "corrupt" not in again["rejected"]


def test_workers_give_the_same_manifest(root: Path, manifest: Path, tmp_path: Path) -> None:
    scan(root, tmp_path, "train", kind="videos", rules=RULES, workers=2)
    assert (tmp_path / manifest.name).read_text() == manifest.read_text()


def test_a_missing_data_set_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"videos/val.*BDD100K's layout"):
        scan(tmp_path, tmp_path, "val", kind="videos", rules=RULES, workers=0)


@pytest.fixture(scope="module")
def cache(root: Path, manifest: Path) -> Path:
    sample(manifest, root / "cache" / "train", AT_4_FPS, workers=0)
    return root / "cache"


def rows_of(split: Split, name: str) -> slice:
    drive = next(d for d in split.drives if d.id == name)
    return slice(drive.start, drive.start + drive.length)


def test_samples_are_the_frames_nearest_to_quarters_of_a_second(cache: Path) -> None:
    split = Split.open(cache, "train")
    assert [d.id for d in split.drives] == [
        "gps-gap", "no-gps", "no-info", "odd-rate", "plain", "rotated",
    ]  # fmt: skip
    for name, rate in (("plain", 30.0), ("odd-rate", 24_000 / 1_001)):
        frames = split.images(rows_of(split, name))
        assert len(frames) == 16
        for k, frame in enumerate(frames):
            source = picture(round(k / 4 * rate + 1e-9) / rate)
            # Crop of the halved picture; 2 grey levels of H.264's noise at its flat background.
            bar = source[4:68, 16:80][::2, ::2]
            assert np.abs(frame.astype(int) - bar).mean() < 6.0, (name, k)


def test_rotation_metadata_is_applied(cache: Path) -> None:
    split = Split.open(cache, "train")
    upright = split.images(rows_of(split, "plain"))
    turned = split.images(rows_of(split, "rotated"))
    assert np.abs(upright.astype(int) - turned).mean() < 4.0  # two H.264 codings of one picture


def test_known_motion_becomes_actions_and_missing_motion_unknown(cache: Path) -> None:
    split = Split.open(cache, "train")
    plain = split.actions[rows_of(split, "plain")]
    assert np.isnan(plain[0]).all()  # nothing led to the first frame
    np.testing.assert_allclose(plain[1:, 0], SPEED_MPS, rtol=1e-5)
    np.testing.assert_allclose(plain[1:, 1], YAW_RADPS, rtol=0.01)  # chords of a 1 s polygon
    for name in ("no-gps", "no-info"):
        assert np.isnan(split.actions[rows_of(split, name)]).all()
    known = ~np.isnan(split.actions[rows_of(split, "gps-gap")][:, 0])
    # Rows stand at 0, 1 and 3 .. 4 s: 2.0 s apart is too far.
    assert known.tolist() == [0.25 <= k / 4 <= 1.0 or k / 4 >= 3.25 for k in range(16)]


def test_actions_fall_into_the_runtimes_bins_and_unknown_ones_into_unknown() -> None:
    layout = FrameLayout.of(SMALL, prompt_length=0)
    actions = np.array([[8.0, -0.2], [np.nan, np.nan]], np.float32)
    assert action_ids(layout, actions).tolist() == [
        list(layout.action_ids(Action(speed_mps=8.0, yaw_rate_radps=-0.2))),
        list(layout.action_ids(None)),
    ]


def test_real_motion_thinned_to_gps_rate_gives_back_its_speed_and_turns(real_data: Path) -> None:
    """One real minute (comma2k19, 20 Hz) as GPS would have it: one row a second."""
    pose = real_data / "comma_minute" / "global_pose"
    times, velocity, position = (
        np.load(pose / name) for name in ("frame_times", "frame_velocities", "frame_positions")
    )
    up = position / np.linalg.norm(position, axis=1, keepdims=True)
    east = np.cross([0.0, 0.0, 1.0], up)
    east /= np.linalg.norm(east, axis=1, keepdims=True)
    v_east = (velocity * east).sum(1)
    v_north = (velocity * np.cross(up, east)).sum(1)
    speed, course = np.hypot(v_east, v_north), np.arctan2(v_east, v_north)
    t = times - times[0]
    rows = [
        {"timestamp": 1000 * t[i], "speed": speed[i], "course": np.degrees(course[i]) % 360}
        for i in range(0, len(t), 20)
    ]
    track, why = track_of(rows, 0.0)
    assert why is None
    at = np.arange(0.5, t[-20] - 0.5, 0.25)
    found = actions_at(track, at, fps=4)
    true_yaw = -np.interp(at, t[1:], np.diff(np.unwrap(course)) * 20)
    assert np.abs(found[:, 0] - np.interp(at, t, speed)).mean() < 0.1  # m/s
    assert np.abs(found[:, 1] - true_yaw).mean() < 0.02  # rad/s, 1 Hz misses the quick ones


def test_an_interrupted_sampling_goes_on(manifest: Path, cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "cache" / "train"
    tasks = make_plan(manifest, AT_4_FPS)
    broken = tasks[2].media
    kept = broken.read_bytes()
    broken.write_bytes(kept[: len(kept) // 2])
    try:
        with pytest.raises(VideoError, match=broken.name):
            sample(manifest, out, AT_4_FPS, workers=0)
        with pytest.raises(VideoError, match=broken.name):  # by name from a worker's process, too
            sample(manifest, tmp_path / "by workers", AT_4_FPS, workers=2)
    finally:
        broken.write_bytes(kept)
    with pytest.raises(InvalidInput, match="not finished"):
        Split.open(tmp_path / "cache", "train")
    assert len(Journal.read(out / "sample.jsonl")) == 3  # header and two drives
    sample(manifest, out, AT_4_FPS, workers=2)
    for name in ("frames.npy", "actions.npy", "drives.json"):
        assert (out / name).read_bytes() == (cache / "train" / name).read_bytes(), name
    with pytest.raises(InvalidInput, match="begun with fps=4"):
        sample(manifest, out, Sampling(fps=2.0, size=FrameSize.square(SIZE)), workers=0)


def test_clips_and_images_keep_only_some_samples(manifest: Path, tmp_path: Path) -> None:
    clips = Sampling(fps=4.0, size=FrameSize.square(SIZE), keep=3, every=8)
    sample(manifest, tmp_path / "clips", clips, workers=0, limit=2)
    split = Split.open(tmp_path, "clips")
    assert [d.length for d in split.drives] == [3, 3, 3, 3]
    assert len(split.windows(3)) == 4
    sample(manifest, tmp_path / "images", Sampling(fps=0.5, size=FrameSize.square(SIZE)), workers=0)
    assert len(Split.open(tmp_path, "images")) == 6 * 2  # 4 s at one image in 2 s
    with pytest.raises(InvalidInput, match="keep"):
        Sampling(keep=3, every=2)


def test_a_disk_that_is_too_small_is_seen_before_anything_is_decoded(
    manifest: Path, tmp_path: Path
) -> None:
    lines = manifest.read_text().splitlines()
    row = json.loads(lines[-2])
    many = tmp_path / "manifest.jsonl"
    row["end_s"] = str(10**12)
    many.write_text("\n".join([lines[0], json.dumps(row)]) + "\n")
    with pytest.raises(InvalidInput, match=r"GB free; allowed: .* GB free"):
        sample(many, tmp_path / "out", AT_4_FPS, workers=0)


def test_ids_from_a_sampled_folder_equal_ids_from_the_videos(
    manifest: Path, cache: Path, tmp_path: Path
) -> None:
    model = random_vq()
    split = Split.open(cache, "train")
    tokenize(split, model)
    direct = tmp_path / "direct" / "train"
    tokenize_videos(manifest, direct, model, AT_4_FPS, workers=0)
    other = Split.open(tmp_path / "direct", "train")
    np.testing.assert_array_equal(other.ids(), split.ids(tokenizer_sha256(model)))
    np.testing.assert_array_equal(other.actions, split.actions)
    assert split.ids().dtype == np.uint16
    with pytest.raises(InvalidInput, match="ids only"):
        other.images(slice(0, 1))


def test_interrupted_tokenizing_goes_on(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model, split = random_vq(), Split.open(cache, "train")
    expected = np.array(split.ids()) if (split.folder / "ids.bin").is_file() else None
    whole = tokenizing.encode
    calls = []

    def dies(*args: object, **options: object) -> np.ndarray:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(tokenizing, "encode", dies)
    monkeypatch.setattr(tokenizing, "CHUNK", 32)
    with pytest.raises(KeyboardInterrupt):
        tokenize(split, model, mirrored=True, batch=1)
    assert split.mirrored_ids() is None
    tokenize(split, model, mirrored=True, batch=16)  # the chunks do not depend on the batch
    found = split.mirrored_ids()
    assert len(calls) == 2 + 2  # three chunks of 32; the first was not done again
    assert found is not None
    flipped = np.ascontiguousarray(split.images(slice(0, len(split)))[:, :, ::-1])
    np.testing.assert_array_equal(found, whole(model, flipped, mirrored=False, batch=16))
    assert expected is None or not np.array_equal(found, expected)


def test_ids_of_another_tokenizer_version_or_length_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ids.bin"
    header = IdsHeader(frames=3, codes_per_frame=4, num_codes=32, tokenizer_sha256="a" * 64)
    create_ids(path, header)
    assert open_ids(path, 3, "a" * 64).shape == (3, 4)
    with pytest.raises(CheckpointError, match=r"made by tokenizer aaaa.*in use is bbbb"):
        open_ids(path, 3, "b" * 64)
    with pytest.raises(CheckpointError, match="ids of 3 frames, the split has 4"):
        open_ids(path, 4)
    data = bytearray(path.read_bytes())
    path.write_bytes(data[:-2])
    with pytest.raises(CheckpointError, match="cut off"):
        open_ids(path, 3)
    path.write_bytes(bytes(data).replace(b'"version": 1', b'"version": 9'))
    with pytest.raises(CheckpointError, match="version 9"):
        open_ids(path, 3)
    path.write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="not a file of ids"):
        open_ids(path, 3)


def test_a_tokenizers_hash_survives_packing_and_changes_with_its_codebook() -> None:
    model = random_vq()
    before = tokenizer_sha256(model)
    for weight in model.parameters():
        weight.data = weight.data.half().float()
    assert tokenizer_sha256(model) == before
    model.decoder.conv_out.weight.data += 1.0  # ids do not depend on the decoder
    assert tokenizer_sha256(model) == before
    model.quantize.embedding.weight.data[0] += 1.0
    assert tokenizer_sha256(model) != before


def test_courses_are_interpolated_across_north() -> None:
    rows = [
        {"timestamp": 0, "speed": 4.0, "course": 350.0},
        {"timestamp": 1000, "speed": 4.0, "course": 10.0},
    ]
    track, _ = track_of(rows, 0.0)
    actions = actions_at(track, np.array([0.5, 0.75]), fps=4)
    # Clockwise, through north: a right turn, negative.
    assert actions[:, 1].tolist() == pytest.approx([-np.radians(20.0)] * 2, rel=0.05)


def test_drives_of_the_recorder_are_read_by_the_same_reader(tmp_path: Path) -> None:
    root, speed, yaw = tmp_path / "drives", 6.0, -0.2
    with DriveWriter(root, "train", "recorded-000001", seed=1, fps=4) as writer:
        for i in range(12):
            ego = EgoState(
                x_m=0.0, y_m=0.0, speed_mps=speed, heading_rad=1.0 + yaw * i / 4, yaw_rate_radps=yaw
            )
            frame = picture(i / 4)
            writer.add(Observation(frame=frame, sim_time_us=250_000 * i, ego=ego, done=False))
        writer.commit()
    found = scan(root, tmp_path, "train", kind="videos", rules=RULES, workers=0)
    assert (found["usable"], found["with_ego"]) == (1, 1)
    sample(Path(found["manifest"]), tmp_path / "cache" / "train", AT_4_FPS, workers=0)
    split = Split.open(tmp_path / "cache", "train")
    assert len(split) == 12
    np.testing.assert_allclose(split.actions[1:], [[speed, yaw]] * 11, rtol=1e-3)


def test_the_verbs_go_from_files_to_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a user types them, at the real size of 256 pixels, with untrained weights."""
    root = tmp_path / "set"
    times = [i / 10 for i in range(6)]
    big = root / "videos" / "train" / "big.mov"
    write_mov(big, times, rate=Fraction(10), size=(520, 1040))
    common = ["--splits", "train", "--workers", "0"]
    lists, cache = str(tmp_path / "lists"), str(tmp_path / "cache")
    assert main(["data", "scan", "--root", str(root), "--out", lists, *common]) == 0
    assert "1 of 1 files usable" in capsys.readouterr().out
    assert main(["data", "sample", "--manifests", lists, "--out", cache, *common]) == 0
    weights = tmp_path / "weights"
    models = {
        "vq_model": VQModel(POCKET.vq),
        "world_model": WorldModel(POCKET.world_model),
        "video_decoder": VideoDecoder(POCKET.vq, POCKET.video_decoder),
    }
    checkpoints.save(weights, POCKET, models, {"model_id": "untrained"})
    done = main(["data", "tokenize", "--cache", cache, "--init", str(weights), *common])
    assert done == 0
    assert Split.open(Path(cache), "train").ids().shape == (3, 256)
    assert main(["data", "sample", "--manifests", str(root), "--out", cache, *common]) == 2
    assert "made by `python -m train data scan`" in capsys.readouterr().err
