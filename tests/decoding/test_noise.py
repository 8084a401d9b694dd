"""Keyed noise: Philox's published vectors, the Gumbel distribution, independence of the keys."""

import math

import torch

from sim_stream.decoding.noise import gumbel, gumbel_noise, philox4x32

# Known-answer vectors of Philox 4x32-10 (Random123).
VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def test_philox_gives_its_published_vectors() -> None:
    for counter, key, expected in VECTORS:
        words = philox4x32(tuple(torch.tensor([c]) for c in counter), key)
        assert tuple(int(w) for w in words) == expected


def test_noise_has_the_moments_of_a_standard_gumbel() -> None:
    noise = gumbel_noise(seed=7, frame=3, positions=256, vocabulary=2048).double()
    n = noise.numel()
    # Five standard errors: mean has sigma pi/sqrt(6 n); the variance's is below 3.5/sqrt(n).
    assert abs(noise.mean() - 0.5772156649) < 5 * math.pi / math.sqrt(6 * n)
    assert abs(noise.var() - math.pi**2 / 6) < 5 * 3.5 / math.sqrt(n)


def test_extreme_words_stay_finite_where_it_matters() -> None:
    noise = gumbel(torch.tensor([0, 1, 0xFFFFFFFF]))
    assert torch.isfinite(noise).all()
    assert noise[0] > noise[1] > noise[2]
    assert 22.8 < noise[0] < 23.0  # -log(2^-33)


def test_every_part_of_the_key_matters() -> None:
    base = gumbel_noise(1, 1, 4, 8)
    for seed, frame in ((2, 1), (1, 2), (1 + (1 << 32), 1), (1, 1 + (1 << 32))):
        assert not torch.equal(gumbel_noise(seed, frame, 4, 8), base)
    assert len(base.flatten().unique()) == base.numel()


def test_noise_of_a_position_does_not_depend_on_how_much_is_drawn() -> None:
    large = gumbel_noise(5, 9, 16, 64)
    assert torch.equal(gumbel_noise(5, 9, 3, 10), large[:3, :10])
