"""LWM's `params`: flax writes it, our reader and WorldModel give flax's own outputs."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace
from pathlib import Path

import flax.serialization
import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
import torch

from sim_stream.config import OPENVIGA, Preset
from sim_stream.errors import CheckpointError
from sim_stream.models import checkpoints
from sim_stream.models.conversion import faults_of
from sim_stream.models.formats import lwm_params
from sim_stream.models.formats.source import Source
from sim_stream.models.world_model import WorldModel
from tests.models.formats import lwm_files
from tests.models.formats.flax_lwm import LWM, Params, random_params, write_params
from tests.models.formats.lwm_files import full_layout, write_stream
from tests.small import SMALL

# 3 layers, so that no axis can be taken for another.
PRESET: Preset = replace(SMALL, world_model=replace(SMALL.world_model, num_layers=3, num_heads=4))
CONFIG = PRESET.world_model
IDS = np.random.default_rng(0).integers(0, CONFIG.text_vocab_size, (2, 11))
VISION = np.arange(11)[None].repeat(2, 0) >= 4


@pytest.fixture(scope="module")
def params() -> Params:
    return random_params(LWM(CONFIG), IDS, VISION)


def restacked(params: Params, axis: int | None) -> Params:
    """The same weights with layers stacked on another axis, or one by one."""
    stack = params["transformer"]["h"]["scan_decoder"]
    flat = flax.traverse_util.flatten_dict(stack)
    if axis is not None:
        moved = {key: np.moveaxis(w, 0, axis) for key, w in flat.items()}
        layers = {"scan_decoder": flax.traverse_util.unflatten_dict(moved)}
    else:
        layers = {
            str(i): flax.traverse_util.unflatten_dict({key: w[i] for key, w in flat.items()})
            for i in range(CONFIG.num_layers)
        }
    return {**params, "transformer": {**params["transformer"], "h": layers}}


def outputs(params: Params, axis: int | None = 0) -> tuple[jax.Array, jax.Array]:
    return jax.jit(LWM(CONFIG, scan_axis=axis).apply)({"params": params}, IDS, VISION)


def loaded(source: Source) -> WorldModel:
    assert faults_of([source], PRESET, "world_model") == []
    model = WorldModel(CONFIG)
    checkpoints.fill(model, source.tensors(PRESET), "LWM")
    return model.eval()


@torch.no_grad()
def assert_same_outputs(model: WorldModel, theirs: tuple[jax.Array, jax.Array]) -> None:
    ids, vision = torch.from_numpy(IDS), torch.from_numpy(VISION)
    hidden = model(ids, vision)
    for ours, other in zip(
        (model.vision_logits(hidden), model.text_logits(hidden)), theirs, strict=True
    ):
        expected = torch.from_numpy(np.array(other))
        assert expected.std() > 0.3
        # fp32 sums in other orders through three layers; logits are of order 1.
        torch.testing.assert_close(ours, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("axis", [0, 1, None])
def test_flax_and_we_give_the_same_logits(params: Params, axis: int | None, tmp_path: Path) -> None:
    same = restacked(params, axis)
    write_params(tmp_path / "params", same)
    source = lwm_params.read(tmp_path / "params")
    assert source.facts["rope"] == "interleaved"
    assert source.facts["layers"] == ("one by one" if axis is None else f"stacked on axis {axis}")
    assert_same_outputs(
        loaded(source), LWM(CONFIG, scan_axis=axis).apply({"params": same}, IDS, VISION)
    )


@pytest.mark.parametrize("axis", [0, 1])
def test_chunked_arrays_are_read_across_their_chunks(
    params: Params, axis: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 1000)  # bytes; no layer fits evenly
    write_params(tmp_path / "params", restacked(params, axis))
    assert b"__msgpack_chunked_array__" in (tmp_path / "params").read_bytes()
    source = lwm_params.read(tmp_path / "params")
    assert_same_outputs(loaded(source), outputs(params))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_values_of_every_type_arrive_as_they_were(
    params: Params, dtype: type, tmp_path: Path
) -> None:
    write_params(tmp_path / "params", params, dtype)
    tensors = dict(lwm_params.read(tmp_path / "params").tensors(PRESET))
    stack = params["transformer"]["h"]["scan_decoder"]
    down = np.asarray(stack["feed_forward"]["w2"]["kernel"][2]).T.astype(dtype)
    ours = tensors["layers.2.mlp.down_proj.weight"]
    assert str(ours.dtype) == f"torch.{np.dtype(dtype).name}"
    assert np.array_equal(ours.float().numpy(), down.astype(np.float32))


def test_without_the_rope_permutation_outputs_are_others(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_params(tmp_path / "params", params)
    monkeypatch.setattr(lwm_params, "halves", lambda w, heads: w)
    model = loaded(lwm_params.read(tmp_path / "params"))
    with pytest.raises(AssertionError, match="Mismatched elements"):
        assert_same_outputs(model, outputs(params))


def test_missing_extra_and_misshapen_arrays_are_named_at_once(
    params: Params, tmp_path: Path
) -> None:
    wrong = {**params, "surplus": {"kernel": np.ones(2, np.float32)}}
    wrong["lm_head"] = {"kernel": np.ones((3, 5), np.float32)}
    del wrong["vision_head"]
    write_params(tmp_path / "params", wrong)
    faults = faults_of([lwm_params.read(tmp_path / "params")], PRESET, "world_model")
    assert sorted(faults) == [
        "lm_head.weight has shape (5, 3), expected (8, 32)",
        "missing vision_head.weight (256, 32)",
        f"unknown surplus/kernel (2,) in {tmp_path / 'params'}",
    ]


# -- files that are broken or lie ------------------------------------------------------------------


def pair(key: object, value: bytes) -> bytes:
    return msgpack.packb((key, value))


def array(shape: tuple[int, ...], data: bytes, dtype: str = "float32", code: int = 1) -> bytes:
    return msgpack.packb(msgpack.ExtType(code, msgpack.packb((shape, dtype, data))))


GOOD = pair(("transformer", "ln_f", "kernel"), array((2,), bytes(8)))
NESTED = b"\x81\xa1a" * 100_000 + b"\xc0"
HOSTILE = {
    "empty": (b"", "is empty"),
    "no pair": (b"\x91\x01", r"at byte 0: no pair"),
    "cut in the header": (GOOD[:5], r"at byte \d+: .*(cut off|left)"),
    "cut in the array": (GOOD[:-3], r"at byte 26 in transformer/ln_f/kernel: .*left"),
    "twice the same key": (
        GOOD + GOOD,
        rf"at byte {len(GOOD)} in transformer/ln_f/kernel: .*before",
    ),
    "a value of 4 GB announced": (
        pair(("k",), b"")[:-2] + b"\xc6\xff\xff\xff\xff" + b"abc",
        r"in k: 4,294,967,295 bytes announced, 3 left",
    ),
    "an array of 2^32 announced": (
        pair(("k",), b"\xc9\xff\xff\xff\xff\x01"),
        r"in k: 4,294,967,295 bytes announced",
    ),
    "a shape of 2^60": (pair(("k",), array((1 << 60,), bytes(8))), r"in k: shape .* needs"),
    "an axis of no length": (pair(("k",), array((1 << 40, 0), b"")), r"in k: shape .* needs 0"),
    "too many axes": (pair(("k",), array((1,) * 9, bytes(4))), r"in k: array of 9; 8 at most"),
    "objects": (pair(("k",), array((1,), bytes(8), "object")), r"in k: values of type 'object'"),
    "a complex number": (
        pair(("k",), array((1,), bytes(8), code=2)),
        r"in k: extension type 2; only arrays",
    ),
    "deep nesting": (pair(("k",), NESTED), r"in k: "),
    "a nested key": (b"\x92" + b"\x91" * 100_000, r"at byte 2: array where str or bin"),
    "a key of many parts": (pair(("k",) * 17, b""), r"array of 17; 16 at most"),
    "a long key": (pair(("k" * 257,), b""), r"text of 257 bytes; 256 at most"),
    "bytes behind the array": (pair(("k",), array((1,), bytes(4)) + b"\x00"), r"in k: 1 bytes too"),
    "a chunk twice": (
        pair(
            ("k",),
            b"\x83"
            + msgpack.packb("__msgpack_chunked_array__")
            + b"\xc3"
            + msgpack.packb("shape")
            + msgpack.packb({"0": 2})
            + msgpack.packb("chunks")
            + b"\x82"
            + (msgpack.packb("0") + array((1,), bytes(4))) * 2,
        ),
        r"in k: '0' where one of 2 numbers belongs, each once",
    ),
    "chunks that are not there": (
        pair(("k",), msgpack.packb({"__msgpack_chunked_array__": True, "shape": {"0": 2}})),
        r"in k: a chunked array needs",
    ),
    "countless entries": (
        b"".join(pair((str(i),), array((1,), bytes(4))) for i in range(10_001)),
        r"more than 10,000 entries",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_broken_or_hostile_file_is_refused_with_key_and_offset(name: str, tmp_path: Path) -> None:
    content, said = HOSTILE[name]
    (tmp_path / "params").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=said):
        lwm_params.read(tmp_path / "params")
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 16e6  # the most entries that are allowed take 6 MB


def test_no_flipped_header_byte_goes_unnoticed_or_does_harm(params: Params, tmp_path: Path) -> None:
    """Every byte outside the arrays' own values, inverted: refused, or another key or shape."""
    small = {"transformer": {"ln_f": params["transformer"]["ln_f"]}}
    write_params(tmp_path / "params", small)
    good = (tmp_path / "params").read_bytes()
    header = len(good) - CONFIG.hidden_size * 4
    source = lwm_params.read(tmp_path / "params")
    for at in range(header):
        broken = bytearray(good)
        broken[at] ^= 0xFF
        (tmp_path / "params").write_bytes(broken)
        try:
            other = lwm_params.read(tmp_path / "params")
        except CheckpointError:
            continue
        assert (other.shapes, other.unknown) != (source.shapes, source.unknown), at


@pytest.mark.parametrize("value", [math.nan, math.inf, 3e38])
def test_a_value_that_no_trained_weight_has_is_refused(
    params: Params, value: float, tmp_path: Path
) -> None:
    wrong = {**params, "lm_head": {"kernel": params["lm_head"]["kernel"].copy()}}
    wrong["lm_head"]["kernel"][3, 4] = value
    write_params(tmp_path / "params", wrong)
    with pytest.raises(CheckpointError, match=r"params: lm_head\.weight has values from"):
        dict(lwm_params.read(tmp_path / "params").tensors(PRESET))


# -- the real layout -------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, None])
def test_every_array_of_the_7b_layout_is_used_once_and_nothing_is_left_over(
    axis: int | None, tmp_path: Path
) -> None:
    write_stream(tmp_path / "params", full_layout(OPENVIGA.world_model, axis))
    assert (tmp_path / "params").stat().st_size > 13.6e9
    source = lwm_params.read(tmp_path / "params")
    assert source.unknown == () and source.dtypes == {"bfloat16": 14 if axis is not None else 293}
    assert source.parameters == 6_807_621_632
    assert faults_of([source], OPENVIGA, "world_model") == []


def test_our_writer_of_such_files_writes_what_flax_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lwm_files, "CHUNK_ELEMENTS", 7)
    write_stream(tmp_path / "params", {"a/kernel": (2, 3), "b/kernel": (3, 5)}, b"\x80\x3f")
    with (tmp_path / "params").open("rb") as file:
        arrays = {
            tuple(k): flax.serialization.from_bytes(None, v) for k, v in msgpack.Unpacker(file)
        }
    assert [(key, w.shape) for key, w in arrays.items()] == [
        (("a", "kernel"), (2, 3)),
        (("b", "kernel"), (3, 5)),
    ]
    assert all((w == 1.0).all() for w in arrays.values())
