"""The loop: exact resume after a kill, two processes, full disks, NaN, accumulation."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sim_stream.config import OPENVIGA, ActionBins
from sim_stream.errors import CheckpointError, InvalidInput, Unavailable
from tests.small import SMALL
from tests.train.worlds import KINDS, loop, prepare, stage_of, train
from train import checkpoint, stop
from train.config import LoopConfig, get_recipe
from train.data.split import Split
from train.estimate import named_peak
from train.loop import Diverged, Trainer
from train.optim import learning_rate
from train.parallel import Ranks, Share
from train.plan_run import plan
from train.world_model import WorldModelStage

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return prepare(tmp_path)


@pytest.fixture(autouse=True, scope="module")
def one_thread(torch_threads: None) -> None:
    """As the processes below: sums depend on the number of threads."""
    torch.set_num_threads(1)


def process(*arguments: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
    """The run as its own process(es), as a user starts it."""
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [*launch, "-m", "tests.train.worlds", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def same(a: object, b: object, where: str = "") -> None:
    """Equal to the last bit, through dicts, lists and tensors; times may differ."""
    if isinstance(a, torch.Tensor):
        assert isinstance(b, torch.Tensor) and torch.equal(a, b), where
    elif isinstance(a, dict):
        assert isinstance(b, dict) and a.keys() == b.keys(), where
        for key in a.keys() - {"spent_s"}:
            same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert isinstance(b, list | tuple) and len(a) == len(b), where
        for i, pair in enumerate(zip(a, b, strict=True)):
            same(*pair, f"{where}/{i}")
    else:
        assert a == b, where


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_resumed_it_ends_with_the_weights_of_an_uninterrupted_run(
    tmp_path: Path, kind: str
) -> None:
    """Checkpoints every third step; killed after step 8, so steps 7 and 8 are done again."""
    prepare(tmp_path)
    killed = process(kind, str(tmp_path), "10", "die-at", "8")
    assert killed.returncode == -9, killed.stderr
    run = tmp_path / "run"
    assert [path.name for path in checkpoint.find(run)] == ["step-00000003.pt", "step-00000006.pt"]
    resumed = process(kind, str(tmp_path), "10")
    assert resumed.returncode == 0, resumed.stderr
    found = checkpoint.latest(run)
    assert found["step"] == 10
    run.rename(tmp_path / "resumed")
    trainer = train(kind, tmp_path, 10)
    same(found, {**checkpoint.latest(run)})
    assert trainer.step == 10


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "flag"), [("tokenizer", ""), ("lora", "--fsdp")])
def test_two_processes_killed_and_resumed_end_with_the_same_weights(
    tmp_path: Path, kind: str, flag: str
) -> None:
    prepare(tmp_path)
    flags = [flag] if flag else []
    whole = process(kind, str(tmp_path), "7", *flags, processes=2)
    assert whole.returncode == 0, whole.stderr
    (tmp_path / "run").rename(tmp_path / "whole")
    killed = process(kind, str(tmp_path), "7", "die-at", "5", *flags, processes=2)
    assert killed.returncode != 0
    resumed = process(kind, str(tmp_path), "7", *flags, processes=2)
    assert resumed.returncode == 0, resumed.stderr
    same(checkpoint.latest(tmp_path / "run"), checkpoint.latest(tmp_path / "whole"))


@pytest.mark.slow
def test_one_of_two_processes_that_is_asked_to_stop_stops_both_with_the_step_saved(
    tmp_path: Path,
) -> None:
    prepare(tmp_path)
    stopped = process("world-model", str(tmp_path), "7", "stop-at", "5", processes=2)
    assert stopped.returncode != 0
    assert stopped.stderr.count("KeyboardInterrupt: step 5 is saved") == 2
    assert checkpoint.latest(tmp_path / "run")["step"] == 5
    resumed = process("world-model", str(tmp_path), "7", processes=2)
    assert resumed.returncode == 0, resumed.stderr
    (tmp_path / "run").rename(tmp_path / "resumed")
    whole = process("world-model", str(tmp_path), "7", processes=2)
    assert whole.returncode == 0, whole.stderr
    same(checkpoint.latest(tmp_path / "resumed"), checkpoint.latest(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "flag"),
    [("world-model", ""), ("world-model", "--fsdp"), ("video-decoder", "")],
)
def test_two_processes_gradients_equal_one_processes(tmp_path: Path, kind: str, flag: str) -> None:
    """After one step the optimisers' first moments are the gradients times a constant."""
    prepare(tmp_path)
    flags = ["--fp32", *([flag] if flag else [])]
    both = process(kind, str(tmp_path), "1", *flags, processes=2)
    assert both.returncode == 0, both.stderr
    two = checkpoint.latest(tmp_path / "run")["optimizers"]["model"]
    (tmp_path / "run").rename(tmp_path / "two")
    train(kind, tmp_path, 1, precision="fp32")
    one = checkpoint.latest(tmp_path / "run")["optimizers"]["model"]
    compared = 0
    for optimizer in ("0", "1") if kind == "world-model" else (None,):
        ours, theirs = (x[optimizer] if optimizer else x for x in (one, two))
        for index, state in ours["state"].items():
            for key in state.keys() & {"exp_avg", "momentum_buffer"}:
                # fp32 sums in another order.
                torch.testing.assert_close(
                    theirs["state"][index][key], state[key], rtol=1e-3, atol=1e-6
                )
                assert state[key].any(), (optimizer, index)
                compared += 1
    assert compared > 20


def gradients(kind: str, split: Split, accumulate: int) -> dict[str, torch.Tensor]:
    """Of one step, before it is taken; fp32."""
    config = loop(
        split.folder.parent.parent / f"run{accumulate}", 5, accumulate=accumulate, precision="fp32"
    )
    trainer = Trainer(stage_of(kind, split), config)
    trainer.stage.before_step(0, 0.9)
    for micro in range(accumulate):
        torch.manual_seed(0)
        trainer.accumulate(micro)
    return {
        f"{name}.{key}": p.grad.clone()
        for name, part in trainer.parts.items()
        for key, p in part.model.named_parameters()
        if p.grad is not None
    }


@pytest.mark.parametrize("kind", ["world-model", "video-decoder"])
def test_accumulated_gradients_equal_those_of_the_whole_batch(split: Split, kind: str) -> None:
    one, four = gradients(kind, split, 1), gradients(kind, split, 4)
    assert one.keys() == four.keys()
    for key, value in one.items():
        # fp32 sums in another order.
        torch.testing.assert_close(four[key], value, rtol=1e-3, atol=1e-6, msg=key)


def test_a_batch_that_does_not_divide_is_refused(split: Split, tmp_path: Path) -> None:
    config = loop(tmp_path / "run", 5, batch=4, accumulate=3)
    with pytest.raises(InvalidInput, match=r"batch: got 4; allowed: a multiple of 1 ranks x 3"):
        Trainer(stage_of("world-model", split), config)


def test_a_checkpoint_of_another_configuration_is_refused_by_name(tmp_path: Path) -> None:
    split = prepare(tmp_path)
    train("world-model", tmp_path, 2)
    with pytest.raises(CheckpointError, match=r"another configuration: lora: None against \{"):
        Trainer(stage_of("lora", split), loop(tmp_path / "run", 4)).resume()
    with pytest.raises(CheckpointError, match="stage: world-model against tokenizer"):
        Trainer(stage_of("tokenizer", split), loop(tmp_path / "run", 4)).resume()
    stage = stage_of("world-model", split)
    assert isinstance(stage, WorldModelStage)
    stage.preset = replace(SMALL, action_bins=ActionBins(straight_bins=1))
    with pytest.raises(CheckpointError, match=r"action_bins: \{.*bins': 3\} against .*bins': 1\}"):
        Trainer(stage, loop(tmp_path / "run", 4)).resume()


def test_only_the_newest_checkpoints_are_kept_and_partial_ones_never_count(tmp_path: Path) -> None:
    for step in range(1, 6):
        checkpoint.write(tmp_path, step, {"step": step}, keep=2)
    (tmp_path / "step-00000009.part").write_bytes(b"cut off")
    assert [path.name for path in checkpoint.find(tmp_path)] == [
        "step-00000004.pt", "step-00000005.pt",
    ]  # fmt: skip
    assert checkpoint.latest(tmp_path)["step"] == 5
    checkpoint.find(tmp_path)[-1].write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.latest(tmp_path)


def test_a_checkpoint_that_is_a_bomb_or_not_whole_is_refused(tmp_path: Path) -> None:
    path = checkpoint.path_of(tmp_path, 1)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(1 << 24))
    with pytest.raises(CheckpointError, match="members are larger than the file"):
        checkpoint.latest(tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="a FIFO, no regular file"):
        checkpoint.latest(tmp_path)
    unfit = pytest.raises(CheckpointError, match="does not fit this training: KeyError: 'model'")
    with unfit, checkpoint.fitting(path):
        {}["model"]


def test_a_full_disk_costs_the_new_checkpoint_only(tmp_path: Path) -> None:
    """The kernel refuses to write past a limit, as it does on a full disk."""
    big = {"x": torch.zeros(1 << 16)}
    checkpoint.write(tmp_path, 1, big, keep=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            checkpoint.write(tmp_path, 2, big, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.pt"]
    assert torch.equal(checkpoint.latest(tmp_path)["x"], big["x"])


def test_training_goes_on_when_a_checkpoint_does_not_fit(tmp_path: Path) -> None:
    prepare(tmp_path)
    limit = "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (1 << 14, -1)); "
    code = (
        "import sys; from pathlib import Path; from tests.train.worlds import train; "
        + limit
        + f"train('world-model', Path({str(tmp_path)!r}), 6, save_every=2)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert "step 2: checkpoint not written" in done.stdout
    assert "step 4: checkpoint not written" in done.stdout
    assert "Unavailable: the last checkpoint could not be written" in done.stderr
    assert not checkpoint.find(tmp_path / "run")


def test_a_last_checkpoint_that_does_not_fit_is_an_error(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    split = prepare(tmp_path)

    def full(*_: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write", full)
    trainer = Trainer(stage_of("world-model", split), loop(tmp_path / "run", 1))
    with pytest.raises(Unavailable, match="No space left on device"):
        trainer.run()


def test_a_loss_that_is_not_finite_stops_with_its_batch_saved(split: Split, tmp_path: Path) -> None:
    stage = stage_of("world-model", split)
    trainer = Trainer(stage, loop(tmp_path / "run", 5))
    with torch.no_grad():
        stage.model.model.norm.weight.fill_(torch.nan)
    with pytest.raises(Diverged, match=r"step 0: loss is nan .*stopped-step0-rank0.pt"):
        trainer.run()
    saved = torch.load(tmp_path / "run" / "stopped-step0-rank0.pt", weights_only=True)
    assert torch.equal(saved["batch"][0], stage.batch(0, Share())[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_after_its_step_which_is_saved(
    split: Split, tmp_path: Path, number: signal.Signals
) -> None:
    handler = signal.getsignal(number)
    trainer = Trainer(stage_of("world-model", split), loop(tmp_path / "run", 6))

    def after_step(step: int) -> None:
        if step == 2:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)  # as a terminal's comes under torchrun

    trainer.stage.after_step = after_step  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt, match="step 2 is saved"):
        trainer.run()
    assert signal.getsignal(number) is handler
    found = checkpoint.latest(tmp_path / "run")
    assert found["step"] == 2
    same(found["model"], trainer.state()["model"])
    resumed = Trainer(stage_of("world-model", split), loop(tmp_path / "run", 6))
    assert resumed.resume()
    resumed.run()
    assert resumed.step == 6


def test_a_second_signal_ends_a_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((10.0, 10.5, 11.5))
    monkeypatch.setattr(stop, "monotonic", lambda: next(times))
    with pytest.raises(KeyboardInterrupt, match="at once"), stop.StopRequest() as request:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert request.asked
        os.kill(os.getpid(), signal.SIGINT)


def test_the_papers_schedule() -> None:
    """Sec. IV-A: warm-up 2k to 5e-5, cosine 150k to 5e-7, then 5e-7."""
    config = LoopConfig(
        out=Path(), steps=200_000, batch=80, lr=5e-5, final_lr=5e-7,
        warmup_steps=2_000, decay_steps=150_000,
    )  # fmt: skip

    def at(step: int) -> float:
        return learning_rate(config, step, step / config.steps)

    assert at(0) == pytest.approx(5e-5 / 2_000)
    assert at(1_999) == pytest.approx(5e-5)
    assert at(2_000) == pytest.approx(5e-5)
    assert at(77_000) == pytest.approx((5e-5 + 5e-7) / 2)
    assert at(152_000) == at(199_999) == pytest.approx(5e-7)


def test_a_time_budget_ends_the_run_and_its_schedule(split: Split, tmp_path: Path) -> None:
    config = loop(tmp_path / "run", 10_000, minutes=0.5 / 60)
    trainer = Trainer(stage_of("world-model", split), config)
    trainer.run()
    assert 0 < trainer.step < 10_000
    assert trainer.spent_s >= 0.5
    assert trainer.set_rates() == pytest.approx(config.final_lr)


def test_tensorboard_gets_figures_pictures_and_clips(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    prepare(tmp_path)
    for kind, tag in (("tokenizer", "frame_and_reconstruction"), ("video-decoder", "_clip")):
        train(kind, tmp_path, 5, tensorboard=True)
        events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
        events.Reload()
        assert {"loss", "lr", "psnr"} <= set(events.Tags()["scalars"])
        pictures = [name for name in events.Tags()["images"] if tag in name]
        assert pictures
        data = events.Images(pictures[0])[0].encoded_image_string
        assert data[:3] == (b"GIF" if tag == "_clip" else b"\x89PN")
        (tmp_path / "run").rename(tmp_path / kind)


def test_a_dry_run_counts_the_papers_world_model_exactly() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "train", "world-model", "--preset", "openviga", "--dry-run",
         "--json", "--ranks", "4", "--estimate-for", "H100"],
        cwd=ROOT, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    assert (found["total"], found["trainable"]) == (6_973_755_392, 166_400_000)
    # Frozen bf16, trained fp32 with gradients and two moments.
    frozen = 2 * (6_973_755_392 - 166_400_000)
    assert found["memory_gb"]["weights"] == pytest.approx(
        (frozen + 4 * 166_400_000) / 1e9, rel=1e-3
    )
    assert found["memory_gb"]["optimizer"] == pytest.approx(8 * 166_400_000 / 1e9, rel=1e-3)


def test_one_rank_is_a_world_of_one() -> None:
    assert Ranks().leads and Share().rows(8) == slice(0, 8)


def test_the_estimated_work_of_a_step_is_that_of_the_formula() -> None:
    """Adapters on frozen weights, checkpointed: each linear layer works three times (forward,
    again, backward to its input), 2 FLOP a weight and position; flash attention 4.5 times."""
    preset, recipe = OPENVIGA, get_recipe("openviga", "world-model")
    found = plan(
        "world-model", preset, recipe, LoopConfig(out=Path(), **recipe.loop), ranks=4,
        peak=("H100", 989e12),
    )  # fmt: skip
    c, positions = preset.world_model, 16 * 257
    layer = 4 * c.hidden_size**2 + 3 * c.hidden_size * c.intermediate_size
    linear = 3 * 2 * 6 * positions * 32 * layer
    attention = 4.5 * 2 * 6 * positions**2 * c.hidden_size * 32
    # Heads and adapters come on top.
    assert 1.0 < 1e12 * found.step_tflop / (linear + attention) < 1.1


def test_a_plan_on_no_known_gpu_is_refused() -> None:
    with pytest.raises(InvalidInput, match="estimate-for: got TPU"):
        named_peak("TPU")
