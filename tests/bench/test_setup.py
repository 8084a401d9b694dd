"""What is refused before anything runs, and the memory that a system needs."""

import re
from pathlib import Path

import pytest
import torch

from sim_stream.bench import setup as setups
from sim_stream.bench.options import BenchOptions
from sim_stream.config import OPENVIGA
from sim_stream.errors import CheckpointError, InvalidInput, Unavailable

PAPER_PARAMETERS = 6_807_621_632 + 58_693_568 + 87_018_499 + 524_288 + 2 * 4_160

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"paces": "4,fast"}, "paces: got 'fast'; allowed: steps a second above 0, or free"),
        ({"paces": "0"}, "paces: got 0"),
        ({"paces": "-4"}, "paces: got -4"),
        ({"paces": "nan"}, "paces: got nan"),
        ({"paces": ""}, "paces: got ''"),
        ({"paces": "4,8,4.0"}, "paces: got 4,8,4.0; allowed: each pace once"),
        ({"frames": 0}, "frames: got 0"),
        ({"warm_up": -1}, "warm_up: got -1"),
        ({"threads": 0}, "threads: got 0"),
        ({"preset": "nano"}, "preset: got nano"),
        ({"decoding": "jacobi:x"}, "decoding: got jacobi:x"),
        ({"random_weights": True, "weights": Path("w")}, "none beside --random-weights"),
        ({"out": Path(__file__)}, "a file"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(wrong: dict, said: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(said)):
        BenchOptions(**wrong)


def test_paces_are_numbers_and_the_word_free() -> None:
    assert BenchOptions(paces="4, 8.5,free").pace_list() == (4.0, 8.5, None)


def test_quick_gives_way_to_what_was_said() -> None:
    quick = BenchOptions.quick(frames=7)
    assert (quick.frames, quick.warm_up) == (7, 4)


def test_a_server_of_random_weights_is_asked_for() -> None:
    assert "--random-weights" in BenchOptions(random_weights=True).serve_options()
    assert "--random-weights" not in BenchOptions().serve_options()


@no_gpu
def test_full_size_system_without_a_gpu_is_refused_with_both_numbers() -> None:
    options = BenchOptions(preset="openviga", random_weights=True)
    with pytest.raises(Unavailable) as caught:
        setups.prepare(options, prompt_frames=2)
    said = str(caught.value)
    assert "needs a CUDA device with " in said and " GB (weights " in said
    assert "no CUDA device, and " in said and " GB of main memory are free" in said


def test_memory_of_the_full_size_system_has_the_papers_weights_and_cache() -> None:
    options = BenchOptions(preset="openviga", random_weights=True, precision="fp32", device="cpu")
    memory = setups._count(options, 20, torch.device("cpu"), 2).memory
    # The video decoder's 259.8 M parameters grow where upsampling is folded: 2x2x4 for 3x3 taps.
    assert 4 * (PAPER_PARAMETERS + 259.8e6) < memory.weights < 4 * (PAPER_PARAMETERS + 350e6)
    positions = 4_132 + 20 + 8 * 257  # a full context, and the frames that outlive it
    assert memory.kv_cache == positions * 2 * 512 * 1024  # fp32: twice the facts page's 512 KiB
    assert memory.activations > 0
    assert memory.total == sum(
        (memory.weights, memory.kv_cache, memory.activations, memory.overhead)
    )


def test_too_little_memory_is_refused_with_both_numbers() -> None:
    options = BenchOptions(random_weights=True, device="cpu")
    setup = setups.prepare(options, prompt_frames=2)
    with pytest.raises(Unavailable, match=r"pocket needs 0\.\d GB .* on cpu; 0\.1 GB are free"):
        setups.refuse_what_cannot_fit(setup, 100_000_000)
    setups.refuse_what_cannot_fit(setup, setup.memory.total)


def test_weights_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"manifest\.json: no such file"):
        setups.prepare(BenchOptions(weights=tmp_path), prompt_frames=2)
    with pytest.raises(CheckpointError, match=f"preset {OPENVIGA.name} ships no weights"):
        setups.prepare(BenchOptions(preset=OPENVIGA.name), prompt_frames=2)
