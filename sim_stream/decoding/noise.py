"""Gumbel noise keyed by (seed, frame, position): Philox 4x32-10, the same on every device.

A draw depends on its key alone, never on how many were made before: this is what makes a session's
frames independent of decoding strategy, batch neighbours and reconnects. Philox: Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3" (SC 2011), tested against its published vectors.

Legend: N positions of a frame, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox4x32(counter: tuple[Tensor, ...], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Four 32-bit words for every counter of four; words are int64 tensors in [0, 2^32).

    Counters may have shapes that broadcast: the first rounds then work on the small ones. A product
    of two 32-bit words wraps in int64 to the right 64 bits; the mask drops the sign.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0 = (p1 >> 32).bitwise_and_(_MASK).bitwise_xor_(k0) ^ c1
        c2 = (p0 >> 32).bitwise_and_(_MASK).bitwise_xor_(k1) ^ c3
        c1, c3 = p1.bitwise_and_(_MASK), p0.bitwise_and_(_MASK)
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def gumbel_noise(
    seed: int, frame: int, positions: int, vocabulary: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Standard Gumbel noise of one frame, fp32 (N V). `seed` is a u64, `frame` a u64."""
    if vocabulary % 4:
        return gumbel_noise(seed, frame, positions, -(-vocabulary // 4) * 4, device)[:, :vocabulary]
    quads = torch.arange(vocabulary // 4, device=device)[None, :]
    rows = torch.arange(positions, device=device)[:, None]
    zero = torch.zeros((1, 1), dtype=torch.int64, device=device)
    counter = (quads, rows, zero + (frame & _MASK), zero + (frame >> 32))
    words = torch.stack(philox4x32(counter, (seed & _MASK, seed >> 32)), -1).flatten(1)
    return gumbel(words)


def gumbel(words: Tensor) -> Tensor:
    """Standard Gumbel from uniform 32-bit words: -log(E), E = -log(1 - u) exponential.

    Through log1p small u keep their full precision, which is where large noise comes from.
    """
    u = words.double().add_(0.5).mul_(2.0**-32).float().clamp_(max=1.0 - 2.0**-24)
    return u.neg_().log1p_().neg_().log_().neg_()
