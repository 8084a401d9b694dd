"""What a report says of replies whose times are known."""

from dataclasses import replace

import pytest

from sim_stream.bench.calibration import Calibration
from sim_stream.bench.counting import PassSize, Storage, Work
from sim_stream.bench.paced import Reply
from sim_stream.bench.report import Run, run_report, sweep_report
from sim_stream.bench.roofline import Stages
from sim_stream.bench.sweep import WindowTime, windows
from sim_stream.config import DecodingConfig
from sim_stream.layout import FrameLayout
from tests.small import SMALL

MS = 1_000_000


def stages() -> Stages:
    return Stages(
        preset=SMALL,
        layout=FrameLayout.of(SMALL, 0),
        decoding=DecodingConfig(),
        calibration=Calibration(
            device="cpu",
            threads=1,
            copy_gb_per_s=10.0,
            read_gb_per_s=20.0,
            read_bytes=1 << 20,
            gemm_tflop_per_s={"fp32": 0.1, "bf16": 0.2},
        ),
        storage=Storage.plain(4),
        world_model_type="fp32",
        video_type="bf16",
        encode=Work(flop=1e9, bytes=1e6),  # 10 ms of operations
        video_decode=Work(flop=2e8, bytes=4e7),  # 1 ms of operations, 2 ms of bytes
        prompt_frames=2,
    )


def replies(count: int, *, lookahead: int = 1) -> list[Reply]:
    """One every 100 ms, each answered after 30 ms, which is 10 ms after its send."""
    return [
        Reply(
            step=step,
            due_ns=100 * MS * step,
            send_ns=(100 * step + 20) * MS,
            recv_ns=(100 * step + 30) * MS,
            frame_id=step - lookahead,
            final=True,
            approximated=False,
            accepted=(32, 32),
            timings_ns={"world_model": 5 * MS, "video_decode": 4 * MS, "round_trip": 10 * MS}
            | ({"re_anchor": MS} if step % 2 == 0 else {}),
        )
        for step in range(1, count + 1)
    ]


def run(count: int, *, lookahead: int = 1, pace_fps: float | None = 10.0) -> Run:
    found = replies(count, lookahead=lookahead)
    return Run(pace_fps=pace_fps, warm_up=2, replies=found, opened_ns={"encode": 20 * MS})


def test_latency_counts_from_when_a_step_was_due_and_leaves_warm_up_out() -> None:
    found = run_report(run(22), stages(), trained=True)
    assert (found["frames"], found["warm_up"], found["fps"]) == (20, 2, 10.0)
    assert found["latency_ms"]["end_to_end"]["p50"] == 30.0
    assert found["latency_ms"]["round_trip"]["p50"] == 10.0
    assert found["latency_ms"]["re_anchor"]["n"] == 10
    assert len(found["series"]["due_s"]) == 22


@pytest.mark.parametrize(("lookahead", "photon_ms", "n"), [(0, 30.0, 20), (1, 130.0, 19)])
def test_motion_to_photon_ends_with_the_reply_that_shows_the_actions_frame(
    lookahead: int, photon_ms: float, n: int
) -> None:
    found = run_report(run(22, lookahead=lookahead), stages(), trained=True)
    photon = found["latency_ms"]["motion_to_photon"]
    assert (photon["p50"], photon["n"]) == (photon_ms, n)
    # An action waits for a frame boundary: half a period of 100 ms usually, a whole one at worst.
    assert found["motion_to_photon_ms"] == {"typical": photon_ms + 50, "worst": photon_ms + 100}


def test_deadline_is_the_period_and_free_running_has_none() -> None:
    slow = [replace(r, recv_ns=r.recv_ns + (100 * MS if r.step in (5, 6, 9) else 0))
            for r in replies(22)]  # fmt: skip
    paced = Run(pace_fps=10.0, warm_up=2, replies=slow, opened_ns={})
    found = run_report(paced, stages(), trained=True)["deadline"]
    assert (found["deadline_ms"], found["count"], found["longest_run"]) == (100.0, 3, 2)
    free = run_report(run(22, pace_fps=None), stages(), trained=True)
    assert free["deadline"] is None and "motion_to_photon_ms" not in free


def test_roofline_is_the_slower_bound_over_the_time_measured() -> None:
    found = run_report(run(22), stages(), trained=True)["roofline"]
    assert found["encode"] == {
        "bound_ms": 10.0, "bound_by": "compute", "measured_ms": 20.0, "fraction": 0.5,
    }  # fmt: skip
    assert found["video_decode"] == {
        "bound_ms": 2.0, "bound_by": "memory", "measured_ms": 4.0, "fraction": 0.5,
    }  # fmt: skip


def test_world_models_bound_is_that_of_the_passes_that_ran() -> None:
    few, many = run(22), run(22)
    many = replace(many, replies=[replace(r, accepted=(1,) * 64) for r in many.replies])
    bounds = [
        run_report(each, stages(), trained=True)["roofline"]["world_model"]["bound_ms"]
        for each in (few, many)
    ]
    # Raster passes of one id each: 64 of them read the weights 32 times as often as two.
    assert bounds[1] / bounds[0] == pytest.approx(32, rel=0.1)


def test_accept_lengths_are_counted_unless_weights_are_random() -> None:
    found = run_report(run(22), stages(), trained=True)
    assert (found["passes"], found["accepted"]) == ({"2": 20}, {"32": 40})
    untrained = run_report(run(22), stages(), trained=False)
    assert "passes" not in untrained and "accepted" not in untrained


def test_windows_double_up_to_the_whole_frame() -> None:
    assert windows(256) == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert windows(100) == [1, 2, 4, 8, 16, 32, 64, 100]


def test_sweep_gives_each_window_its_bound() -> None:
    size = PassSize(ids=4, rows=4, end=100)
    (line,) = sweep_report([WindowTime(window=4, size=size, p50_ms=2.0, min_ms=1.0)], stages())
    assert (line["window"], line["measured_ms"], line["min_ms"]) == (4, 2.0, 1.0)
    assert line["bound_ms"] == pytest.approx(stages().pass_bound(size).ms, abs=1e-4)
