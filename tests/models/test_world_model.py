"""WorldModel: LWM's parameter count, transformers' Llama arithmetic, the cache's promises."""

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaModel

from sim_stream.config import OPENVIGA
from sim_stream.errors import InvalidInput
from sim_stream.models.kv_cache import KVCache
from sim_stream.models.world_model import WorldModel
from tests.small import SMALL, random_world_model

CONFIG = SMALL.world_model
# Both sides sum in fp32 in different orders; logits here are of order 1.
TOLERANCE = {"atol": 2e-5, "rtol": 2e-5}


def test_openviga_has_lwm_parameter_count() -> None:
    with torch.device("meta"):
        model = WorldModel(OPENVIGA.world_model)
    assert sum(p.numel() for p in model.parameters()) == 6_807_621_632


def llama_twin(model: WorldModel) -> LlamaModel:
    llama = LlamaModel(
        LlamaConfig(
            vocab_size=CONFIG.text_vocab_size,
            hidden_size=CONFIG.hidden_size,
            intermediate_size=CONFIG.intermediate_size,
            num_hidden_layers=CONFIG.num_layers,
            num_attention_heads=CONFIG.num_heads,
            rms_norm_eps=CONFIG.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": CONFIG.rope_theta},
            max_position_embeddings=4096,
        )
    ).eval()
    own = {k: v for k, v in model.state_dict().items() if k in llama.state_dict()}
    llama.load_state_dict(own)
    return llama


def random_ids(length: int, high: int) -> Tensor:
    return torch.randint(0, high, (1, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_text_equals_transformers_llama() -> None:
    model = random_world_model()
    ids = random_ids(12, CONFIG.text_vocab_size)
    ours = model(ids, torch.zeros_like(ids, dtype=torch.bool))
    theirs = llama_twin(model)(input_ids=ids).last_hidden_state
    torch.testing.assert_close(ours, theirs, **TOLERANCE)
    torch.testing.assert_close(
        model.text_logits(ours), theirs @ model.lm_head.weight.T, **TOLERANCE
    )


@torch.no_grad()
def test_mixed_text_and_vision_equals_llama_on_the_same_embeddings() -> None:
    model = random_world_model()
    ids = random_ids(20, CONFIG.text_vocab_size)
    vision = torch.arange(20)[None] >= 6
    ids = torch.where(vision, random_ids(20, CONFIG.vision_vocab_size), ids)
    rows = [
        (model.vte if is_vision else model.embed_tokens).weight[i]
        for i, is_vision in zip(ids[0], vision[0], strict=True)
    ]
    theirs = llama_twin(model)(inputs_embeds=torch.stack(rows)[None]).last_hidden_state
    ours = model(ids, vision)
    torch.testing.assert_close(ours, theirs, **TOLERANCE)
    torch.testing.assert_close(
        model.vision_logits(ours), theirs @ model.vision_head.weight.T, **TOLERANCE
    )


@torch.no_grad()
@pytest.mark.parametrize("chunks", [[24], [10, 14], [7, 1, 1, 9, 6], [1] * 24])
def test_decoding_with_the_cache_equals_one_full_pass(chunks: list[int]) -> None:
    model = random_world_model()
    ids = random_ids(24, CONFIG.vision_vocab_size)
    cache = KVCache(CONFIG, 32)
    parts = [model(part, None, cache) for part in ids.split(chunks, 1)]
    torch.testing.assert_close(torch.cat(parts, 1), model(ids), **TOLERANCE)
    assert cache.length == 24


@torch.no_grad()
def test_rolling_back_and_decoding_again_gives_equal_logits() -> None:
    model = random_world_model()
    ids = random_ids(16, CONFIG.vision_vocab_size)
    cache = KVCache(CONFIG, 16)
    model(ids[:, :10], None, cache)
    first = model(ids[:, 10:], None, cache)
    cache.roll_back(10)
    model(random_ids(6, 5), None, cache)
    cache.roll_back(10)
    assert torch.equal(model(ids[:, 10:], None, cache), first)


@torch.no_grad()
def test_a_copied_cache_goes_its_own_way() -> None:
    model = random_world_model()
    ids = random_ids(12, CONFIG.vision_vocab_size)
    cache = KVCache(CONFIG, 16)
    model(ids[:, :8], None, cache)
    twin = KVCache(CONFIG, 16)
    twin.copy_from(cache)
    model(random_ids(4, 5), None, twin)
    expected = model(ids)[:, 8:]
    torch.testing.assert_close(model(ids[:, 8:], None, cache), expected, **TOLERANCE)


@torch.no_grad()
def test_fused_projections_change_nothing() -> None:
    model = random_world_model()
    ids = random_ids(9, CONFIG.vision_vocab_size)
    before, keys = model(ids), set(model.state_dict())
    torch.testing.assert_close(model.fuse()(ids), before, **TOLERANCE)
    assert set(model.state_dict()) == keys


def test_rope_tables_stay_fp32_in_a_bf16_model() -> None:
    model = random_world_model().bfloat16()
    hidden = model(random_ids(4, 8))
    assert hidden.dtype == torch.bfloat16
    assert model.rope(0, 4, torch.device("cpu")).cos_SK.dtype == torch.float32


def test_a_pass_beyond_the_capacity_is_refused_and_changes_nothing() -> None:
    model, cache = random_world_model(), KVCache(CONFIG, 8)
    with pytest.raises(InvalidInput, match=r"positions: got 9; allowed: at most 8"):
        model(random_ids(9, 8), None, cache)
    assert cache.length == 0
    with pytest.raises(InvalidInput, match=r"length: got 1; allowed: 0..0"):
        cache.roll_back(1)
