"""LWM's `vqgan`: Flax's outputs from a pickle, and pickles that are anything else."""

from __future__ import annotations

import codecs
import os
import pickle
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.core import freeze

from sim_stream.config import OPENVIGA, FrameSize, VQConfig
from sim_stream.errors import CheckpointError
from sim_stream.models import checkpoints
from sim_stream.models.conversion import faults_of
from sim_stream.models.formats import lwm_vqgan
from sim_stream.models.vq_model import VQModel
from tests.models.formats.flax_lwm import VQGAN, Params, random_params
from tests.small import SMALL

CONFIG = VQConfig(
    block_out_channels=(32, 64, 96),
    layers_per_block=2,
    latent_channels=4,
    num_vq_embeddings=32,
    norm_num_groups=32,  # flax's default, which LWM takes
    frame=FrameSize.square(16),
)
PRESET = replace(SMALL, vq=CONFIG)
X = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)

Dump = Callable[[Params], bytes]
DUMPS: dict[str, Dump] = {
    f"{name} protocol {protocol}": lambda params, make=make, protocol=protocol: pickle.dumps(
        make(params), protocol
    )
    for protocol in (2, 4, 5)
    for name, make in {
        "numpy": lambda params: params,
        "frozen": lambda params: freeze({"params": params}),
        "jax": lambda params: jax.tree_util.tree_map(jnp.asarray, params),
        "fortran": lambda params: jax.tree_util.tree_map(np.asfortranarray, params),
    }.items()
}


@pytest.fixture(scope="module")
def params() -> Params:
    return random_params(VQGAN(CONFIG), X)


@torch.no_grad()
def test_flax_and_we_give_the_same_latents_ids_and_pixels(params: Params, tmp_path: Path) -> None:
    (tmp_path / "vqgan").write_bytes(pickle.dumps(params))
    source = lwm_vqgan.read(tmp_path / "vqgan")
    assert faults_of([source], PRESET, "vq_model") == []
    model = VQModel(CONFIG)
    checkpoints.fill(model, source.tensors(PRESET), "LWM")
    outputs = jax.jit(VQGAN(CONFIG).apply)({"params": params}, X)
    latents, ids, pixels = (torch.from_numpy(np.array(y)) for y in outputs)
    x = torch.from_numpy(X).permute(0, 3, 1, 2)
    # Convolutions sum in fp32 in other orders; values are of order 1 and pass some 20 layers.
    close = {"atol": 1e-4, "rtol": 1e-4}
    ours = model.latents(x)
    assert latents.std() > 0.3 and pixels.std() > 0.3
    torch.testing.assert_close(ours, latents.permute(0, 3, 1, 2), **close)
    assert torch.equal(model.ids_of(ours), ids.flatten(1).long())
    torch.testing.assert_close(
        model.decode(ids.flatten(1).long()), pixels.permute(0, 3, 1, 2), **close
    )


@pytest.mark.parametrize("dump", DUMPS)
def test_every_way_to_pickle_the_same_arrays_gives_the_same_tensors(
    params: Params, dump: str, tmp_path: Path
) -> None:
    (tmp_path / "plain").write_bytes(pickle.dumps(params))
    (tmp_path / "vqgan").write_bytes(DUMPS[dump](params))
    plain, other = (
        dict(lwm_vqgan.read(tmp_path / name).tensors(PRESET)) for name in ("plain", "vqgan")
    )
    assert plain.keys() == other.keys()
    assert all(torch.equal(other[key], w) for key, w in plain.items())


def test_bf16_arrays_are_read(tmp_path: Path) -> None:
    codes = jnp.linspace(-1, 1, 12, dtype=jnp.bfloat16).reshape(3, 4)
    (tmp_path / "vqgan").write_bytes(pickle.dumps({"quantize": {"embeddings": codes}}))
    tensors = dict(lwm_vqgan.read(tmp_path / "vqgan").tensors(PRESET))
    read = tensors["quantize.embedding.weight"]
    assert read.dtype == torch.bfloat16
    assert np.array_equal(read.float().numpy(), np.asarray(codes.astype(jnp.float32)))


def test_the_real_layout_is_used_once_and_nothing_is_left_over() -> None:
    shapes = jax.eval_shape(
        VQGAN(OPENVIGA.vq).init, jax.random.PRNGKey(0), np.zeros((1, 256, 256, 3), np.float32)
    )["params"]
    flat = jax.tree_util.tree_flatten_with_path(shapes)[0]
    keys = {"/".join(step.key for step in path): leaf.shape for path, leaf in flat}
    ours = {
        lwm_vqgan.our_key(key): tuple(shape[i] for i in (3, 2, 0, 1)) if len(shape) == 4 else shape
        for key, shape in keys.items()
    }
    assert len(ours) == len(keys) == 277
    assert ours == checkpoints.shapes_of(checkpoints.make_part(OPENVIGA, "vq_model"))


def test_parameters_of_another_network_are_named(params: Params, tmp_path: Path) -> None:
    wrong = {**params, "AttnBlock_0": {"kernel": np.ones(2, np.float32)}}
    (tmp_path / "vqgan").write_bytes(pickle.dumps(wrong))
    faults = faults_of([lwm_vqgan.read(tmp_path / "vqgan")], PRESET, "vq_model")
    assert faults == [f"unknown AttnBlock_0/kernel in {tmp_path / 'vqgan'}"]


# -- pickles that are anything else ----------------------------------------------------------------


class Runs:
    """Calls something when it is unpickled the ordinary way."""

    def __init__(self, function: Callable[..., object], *given: object) -> None:
        self.call = (function, given)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def nested(depth: int) -> dict[str, object]:
    tree: dict[str, object] = {}
    for _ in range(depth):
        tree = {"a": tree}
    return tree


def shared(depth: int) -> dict[str, object]:
    """Few bytes that are 10^depth leaves when walked."""
    tree: object = np.ones(1, np.float32)
    for _ in range(depth):
        tree = {str(i): tree for i in range(10)}
    assert isinstance(tree, dict)
    return tree


def branches(width: int) -> dict[str, object]:
    """One dict under many names, and so on: many nodes when walked, no array."""
    tree: dict[str, object] = {}
    for _ in range(3):
        tree = {str(i): tree for i in range(width)}
    return tree


def repeated(times: int) -> bytes:
    """A megabyte, and a program that makes an array of it again and again."""
    buffer = b"x" * (1 << 20)
    given = (buffer, np.dtype(np.float32), (1 << 18,), "C")
    return pickle.dumps({str(i): Runs(FROM_BUFFER, *given) for i in range(times)}, 4)


def encoded(times: int) -> bytes:
    text = "x" * (1 << 20)
    return pickle.dumps({str(i): Runs(codecs.encode, text, "latin1") for i in range(times)}, 4)


# numpy's own way in protocol 5.
FROM_BUFFER = np.ones(1, np.float32).__reduce_ex__(5)[0]
ENDLESS: dict[str, object] = {}
ENDLESS["a"] = ENDLESS
ARRAY = pickle.dumps(np.ones(3, np.float32), 4)
HOSTILE: dict[str, tuple[bytes, str]] = {
    "a shell command": (pickle.dumps(Runs(os.system, "touch ran")), r"asks for posix\.system"),
    "an evaluation": (pickle.dumps(Runs(eval, "open('ran', 'w')")), r"asks for builtins\.eval"),
    "a file": (pickle.dumps(Runs(open, "ran", "w")), r"asks for (io|_io)\.open"),
    "getattr": (pickle.dumps(Runs(getattr, "", "join")), r"asks for builtins\.getattr"),
    "numpy's own loader": (pickle.dumps(Runs(np.load, "ran")), r"asks for numpy\S*\.load"),
    "an old instance opcode": (b"(S'touch ran'\nios\nsystem\n.", "opcode INST has no place"),
    "a persistent id": (b"\x80\x04Pran\n.", "opcode PERSID has no place"),
    "an extension code": (b"\x80\x04\x82\x01.", "opcode EXT1 has no place"),
    "a set": (pickle.dumps({1, 2}, 4), "opcode EMPTY_SET has no place"),
    "no pickle": (b"\x80\x04?", "not a pickle of arrays"),
    "nothing": (b"", "not a pickle of arrays"),
    "cut off": (ARRAY[:-9], "not a pickle of arrays|cut off"),
    "bytes of 2^62 announced": (
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"abc.",
        "not a pickle of arrays",
    ),
    "a frame of 2^62 announced": (b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"N.", "cut off"),
    "a memo of 2^31 entries": (b"\x80\x02Nr\xff\xff\xff\x7f.", "memo index 2,147,483,647"),
    "an array of objects": (pickle.dumps({"a": np.array([{}])}), "of type 'O|without a type"),
    "integers": (pickle.dumps({"a": np.ones(3, np.int64)}), "of type 'i8'"),
    "big-endian": (pickle.dumps({"a": np.ones(3, ">f4")}), "big-endian"),
    "a list of arrays": (pickle.dumps([np.ones(3, np.float32)]), "the top is no array"),
    "an array alone": (ARRAY, "the top is no array"),
    "numbers": (pickle.dumps({"a": {"b": 3}}), "a/b is no array"),
    "keys that are no text": (pickle.dumps({1: {}}), "the top is no array"),
    "deep nesting": (pickle.dumps(nested(50)), "nested deeper than 16"),
    "a dict in itself": (pickle.dumps(ENDLESS), "nested deeper than 16"),
    "10^12 shared leaves": (pickle.dumps(shared(12)), "larger than the file"),
    "10,000 empty dicts, shared": (pickle.dumps(branches(200)), "more than 10,000"),
    "one buffer as 6,000 arrays": (repeated(6000), "larger than the file"),
    "one text encoded 6,000 times": (encoded(6000), "larger than the file"),
    "200,000 opcodes": (b"\x80\x04" + b"}0" * 100_000 + b"N.", "more than 100,000 opcodes"),
    "a tuple of tuples as a key": (
        b"\x80\x04})" + b"\x85" * 90_000 + b"Ns.",
        "the top is no array",
    ),
    "a name without end": (pickle.dumps({"a" * 300: {}}), "the top is no array"),
    "a shape that lies": (ARRAY.replace(b"K\x03\x85", b"K\x09\x85"), "in 12 bytes"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_any_other_pickle_is_refused_and_runs_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content, said = HOSTILE[name]
    (tmp_path / "vqgan").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=said):
        lwm_vqgan.read(tmp_path / "vqgan")
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 16e6
    assert os.listdir(tmp_path) == ["vqgan"]


def test_a_pickle_cannot_change_the_reader(params: Params, tmp_path: Path) -> None:
    """BUILD writes attributes into whatever lies on the stack: here the array class itself."""
    attack = b"\x80\x02cnumpy\nndarray\nN}(X\x0c\x00\x00\x00__setstate__Nu\x86b."
    (tmp_path / "bad").write_bytes(attack)
    with pytest.raises(CheckpointError):
        lwm_vqgan.read(tmp_path / "bad")
    (tmp_path / "vqgan").write_bytes(pickle.dumps(params))
    assert faults_of([lwm_vqgan.read(tmp_path / "vqgan")], PRESET, "vq_model") == []
