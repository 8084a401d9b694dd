"""Is it still a drive: each kind of end, and what true drives may do."""

from __future__ import annotations

import numpy as np
import pytest

from train.rollout_health import Signs, change, detail, ends, jumps, signs, sky_covariance, truths


def test_a_drive_is_told_from_ends_of_every_kind() -> None:
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 256, (8, 24, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    scene[:16] = (90, 120, 150)
    drive = np.stack([scene[:, 4 * t : 4 * t + 64] for t in range(16)])
    truth, skies = truths([drive])[0], sky_covariance([drive])
    assert truth.detail == pytest.approx(float(detail(drive).mean()))
    assert truth.change == pytest.approx(float(change(drive).mean()))
    assert truth.sky.tolist() == [90, 120, 150]

    def ends_of(frames: np.ndarray) -> list[str]:
        return [name for name, is_so in ends(signs(frames, truth, skies)).items() if is_so]

    assert ends_of(drive) == []
    assert "frozen" in ends_of(np.concatenate([drive[:8], drive[8:9].repeat(8, 0)]))
    assert "collapsed" in ends_of(np.concatenate([drive[:8], np.full_like(drive[:8], 128)]))
    chaos = rng.integers(0, 2, (16, 16, 16, 3)).repeat(4, 1).repeat(4, 2).astype(np.uint8) * 255
    assert "noise" in ends_of(chaos)
    assert ends_of(drive[[0, 15] * 8]) == ["flickering"]
    dusk = drive.copy()
    dusk[-8:, :16] = (90, 120, 140)  # ten grey levels of one colour, where no sky ever changed
    assert ends_of(dusk) == ["turned"]


def test_a_sky_may_turn_as_those_of_true_drives_do_and_not_otherwise() -> None:
    """Here they grow whiter, all colours together; so does one that is held against them."""
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 256, (8, 24, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    drive = np.stack([scene[:, 4 * (t % 16) : 4 * (t % 16) + 64] for t in range(42)])
    drive[:, :16] = 90
    whiter, redder = drive.copy(), drive.copy()
    whiter[16:, :16] += 30
    redder[16:, :16] += np.array([30, 0, 0], np.uint8)
    skies = sky_covariance([drive, whiter])
    # Of 84 frames 26 are 30 levels off in all colours together.
    expected = 26 / 84 * 900 * np.ones((3, 3)) + np.eye(3)
    assert skies == pytest.approx(expected)
    truth = truths([drive])[0]
    assert not ends(signs(whiter, truth, skies))["turned"]
    assert ends(signs(redder, truth, skies))["turned"]


def test_jumps_are_what_no_motion_of_a_block_explains() -> None:
    """Against a search by hand: 32x32 pixels, up to 32 pixels away, each by whole 4x4 pixels."""
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3)).astype(np.uint8)
    small = frames.reshape(2, 16, 4, 24, 4, 3).mean((2, 4))
    before = np.pad(small[0], ((8, 8), (8, 8), (0, 0)), mode="edge")
    least = [
        min(
            np.abs(small[1, y : y + 8, x : x + 8] - before[v : v + 8, u : u + 8]).mean()
            for v in range(y, y + 17)
            for u in range(x, x + 17)
        )
        for y in (0, 8)
        for x in (0, 8, 16)
    ]
    assert jumps(frames) == pytest.approx([np.mean(least)], rel=1e-5)


def test_a_picture_that_moves_does_not_jump() -> None:
    rng = np.random.default_rng(0)
    world = rng.integers(0, 256, (64, 64, 3)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
    still, moved, away = (world[y : y + 128, x : x + 128] for y, x in ((64, 64), (76, 56), (0, 0)))
    assert jumps(np.stack([still, still])).tolist() == [0.0]
    # Only the blocks at two borders, 7 of 16, show anything that was not there before.
    pair = np.stack([still, moved])
    assert 0.0 < jumps(pair).item() < 7 / 16 * change(pair).item()
    unlike = np.stack([still, away])
    assert jumps(unlike).item() > 0.6 * change(unlike).item()


def test_a_car_that_is_told_to_stand_may_show_a_still_picture() -> None:
    still = Signs(detail=1.0, change=0.1, jumps=0.0, turn=0.0)
    assert ends(still)["frozen"] and not any(ends(still, stands=True).values())


@pytest.mark.parametrize(
    ("sign", "kept", "broken", "end"),
    [
        ("change", 0.21, 0.19, "frozen"),
        ("jumps", 0.69, 0.71, "flickering"),
        ("detail", 0.41, 0.39, "collapsed"),
        ("detail", 1.99, 2.01, "noise"),
        ("turn", 8.9, 9.1, "turned"),
    ],
)
def test_each_limit_has_one_sign(sign: str, kept: float, broken: float, end: str) -> None:
    good = Signs(detail=1.0, change=1.0, jumps=0.3, turn=1.0)
    assert not any(ends(good._replace(**{sign: kept})).values())
    ended = ends(good._replace(**{sign: broken}))
    assert [name for name, is_so in ended.items() if is_so] == [end]
