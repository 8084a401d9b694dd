"""Rates are measured in the types and with the threads that are asked for."""

import torch

from sim_stream.bench import calibration


def test_calibration_gives_a_rate_per_type_and_leaves_the_threads_as_they_were() -> None:
    before = torch.get_num_threads()
    found = calibration.calibrate(
        torch.device("cpu"), before + 1, [torch.float32, torch.float32], 3 << 20
    )
    assert torch.get_num_threads() == before
    assert (found.threads, found.device, found.read_bytes) == (before + 1, "cpu", 3 << 20)
    assert list(found.gemm_tflop_per_s) == ["fp32"]
    assert min(found.copy_gb_per_s, found.read_gb_per_s, *found.gemm_tflop_per_s.values()) > 0


def test_the_shortest_of_the_measured_rounds_counts_and_warm_up_does_not() -> None:
    calls: list[int] = []

    def work() -> None:
        calls.append(0)
        if len(calls) > calibration.WARM_UP:  # only the measured rounds take time
            sum(range(100_000))

    assert calibration.best_s(torch.device("cpu"), work) > 1e-5  # the empty rounds take < 1e-6 s
    assert len(calls) == calibration.WARM_UP + calibration.REPEATS
