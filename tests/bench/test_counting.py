"""The closed form of a pass against torch's own count and against the parameters themselves."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sim_stream.bench.counting import PassSize, Storage, frame_passes, pass_work
from sim_stream.config import DecodingConfig
from sim_stream.models.kv_cache import KVCache
from tests.small import SMALL, random_runtime, random_world_model

CONFIG, CODES = SMALL.world_model, SMALL.vq.num_vq_embeddings


@contextmanager
def counted() -> Iterator[FlopCounterMode]:
    """Attention as two matrix products: torch does not count the CPU's fused kernel."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter


@pytest.mark.parametrize(("context", "ids", "rows"), [(0, 9, 1), (20, 1, 1), (37, 16, 16)])
def test_operations_of_a_pass_are_those_that_torch_counts(
    context: int, ids: int, rows: int
) -> None:
    model, cache = random_world_model(), KVCache(CONFIG, 64)
    with torch.inference_mode():
        if context:
            model(torch.zeros(1, context, dtype=torch.int64), None, cache)
        with counted() as counter:
            hidden = model(torch.zeros(1, ids, dtype=torch.int64), None, cache)
            model.vision_logits(hidden[:, -rows:], CODES)
    size = PassSize(ids=ids, rows=rows, end=context + ids)
    work = pass_work(CONFIG, size, Storage.plain(4), head_rows=CODES)
    assert work.flop == counter.get_total_flops()


def test_bytes_of_a_pass_are_all_parameters_but_embeddings_and_text_head_and_the_cache() -> None:
    model = random_world_model()
    unread = ("embed_tokens", "vte", "lm_head")
    weights = sum(p.nbytes for name, p in model.named_parameters() if not name.startswith(unread))
    filled = KVCache(CONFIG, 50)  # exactly as long as the context
    cache_bytes = sum(part.nbytes for parts in filled.layers for part in parts)
    work = pass_work(
        CONFIG,
        PassSize(ids=3, rows=3, end=50),
        Storage.plain(4),
        head_rows=CONFIG.vision_vocab_size,
    )
    assert work.bytes == weights + cache_bytes


def test_a_prefill_reads_no_head() -> None:
    drawn, silent = (
        pass_work(CONFIG, PassSize(ids=5, rows=rows, end=5), Storage.plain(4), head_rows=CODES)
        for rows in (1, 0)
    )
    assert drawn.bytes - silent.bytes == 4 * CODES * CONFIG.hidden_size


def test_raster_and_jacobi_passes_of_a_frame_worked_out_by_hand() -> None:
    def passes(decoding: str, accepted: list[int]) -> list[tuple[int, int, int]]:
        found = frame_passes(DecodingConfig.parse(decoding), accepted, lead=4, start=10, codes=4)
        return [(size.ids, size.rows, size.end) for size in found]

    assert passes("raster", [1, 1, 1, 1]) == [(4, 1, 14), (1, 1, 15), (1, 1, 16), (1, 1, 17)]
    # Window 3: codes 0..2 behind the lead; code 1 was wrong; 2, 3 behind code 1; then 3 alone.
    assert passes("jacobi:3", [2, 1, 1]) == [(6, 3, 16), (2, 2, 17), (1, 1, 17)]


@pytest.mark.parametrize("decoding", ["raster", "jacobi:7", "jacobi:64"])
def test_passes_of_a_frame_have_the_operations_of_a_real_step(decoding: str) -> None:
    config = DecodingConfig.parse(decoding)
    runtime = random_runtime(step_engine="torch")
    layout, session = runtime.layout, runtime.open_session()
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    session.reset(frames, seed=1, decoding=config)
    with counted() as counter:
        pending = session.predict()
    sizes = frame_passes(
        config,
        pending.accepted,
        lead=layout.lead_length,
        start=layout.frame_start(2) - 2,
        codes=layout.codes_per_frame,
    )
    works = [pass_work(CONFIG, size, Storage.plain(4), head_rows=CODES) for size in sizes]
    assert sum(work.flop for work in works) == counter.get_total_flops()
