"""Operations and bytes of the world model's passes, in closed form from its configuration.

A pass reads every matrix once, however many ids it takes, and the keys and values of the whole
context; so its bytes hardly depend on its ids and its operations are proportional to them. Needs no
torch. The convolutional stages are counted in ``module_counts``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sim_stream.config import DecodingConfig, WorldModelConfig


@dataclass(frozen=True, kw_only=True)
class Work:
    """``flop``: multiplications and additions, each one; ``bytes``: the least that must move."""

    flop: float
    bytes: float

    def __add__(self, other: Work) -> Work:
        return Work(flop=self.flop + other.flop, bytes=self.bytes + other.bytes)


@dataclass(frozen=True, kw_only=True)
class PassSize:
    """``ids`` enter the cache, which then has ``end`` positions; codes are drawn for ``rows``."""

    ids: int
    rows: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Storage:
    """Bytes that a number takes: weights of the layers, of the vision head, keys and values."""

    layer_bytes: float
    head_bytes: float
    kv_bytes: float

    @classmethod
    def plain(cls, itemsize: int) -> Storage:
        return cls(layer_bytes=itemsize, head_bytes=itemsize, kv_bytes=itemsize)


def layer_parameters(config: WorldModelConfig) -> int:
    """Of all layers: attention's four matrices and the MLP's three (norms are in ``norms``)."""
    d = config.hidden_size
    return config.num_layers * (4 * d * d + 3 * d * config.intermediate_size)


def norms(config: WorldModelConfig) -> int:
    return (2 * config.num_layers + 1) * config.hidden_size


def kv_numbers_per_position(config: WorldModelConfig) -> int:
    return 2 * config.num_layers * config.hidden_size


def pass_work(
    config: WorldModelConfig, size: PassSize, storage: Storage, *, head_rows: int
) -> Work:
    """One pass. ``head_rows``: ids that the vision head tells apart; the text head is never read.

    Attention is counted over the whole context for every id, as masked attention computes it.
    """
    layers, d = layer_parameters(config), config.hidden_size
    head = head_rows * d if size.rows else 0
    flop = 2 * size.ids * layers
    flop += 4 * size.ids * size.end * d * config.num_layers
    flop += 2 * size.rows * head
    moved = (layers + norms(config)) * storage.layer_bytes + head * storage.head_bytes
    moved += size.end * kv_numbers_per_position(config) * storage.kv_bytes
    return Work(flop=flop, bytes=moved)


def frame_passes(
    decoding: DecodingConfig, accepted: Iterable[int], *, lead: int, start: int, codes: int
) -> Iterator[PassSize]:
    """The passes that decoded a frame, from the number of codes that each of them added.

    ``lead``: ids before the first code that are not in the cache yet; ``start``: the cache's length
    before them. Ids that a strategy feeds twice, as diagonal does a row's end, are left out.
    """
    found = 0
    for added in accepted:
        feed, base = (1, start + lead + found - 1) if found else (lead, start)
        most = decoding.kind.drawn
        drawn = added if most is None else min(most(decoding), codes - found)
        ids = feed + drawn - 1
        yield PassSize(ids=ids, rows=drawn, end=base + ids)
        found += added
