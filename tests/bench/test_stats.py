"""Percentiles that the samples support, jitter, misses."""

import numpy as np
import pytest

from sim_stream.bench import stats


@pytest.mark.parametrize(
    ("percentile", "needed"), [(50.0, 2), (95.0, 20), (99.0, 100), (99.9, 1000)]
)
def test_a_percentile_needs_one_sample_expected_above_it(percentile: float, needed: int) -> None:
    assert stats.supports(needed, percentile)
    assert not stats.supports(needed - 1, percentile)


def test_unsupported_percentiles_are_left_out_and_the_rest_is_numpys() -> None:
    values = list(np.random.default_rng(0).normal(100.0, 5.0, 150))
    found = stats.summarise(values)
    assert (found["n"], found["p99.9"]) == (150, None)
    assert found["p99"] == pytest.approx(np.percentile(values, 99), abs=1e-3)  # rounded to a us
    assert found["max"] == pytest.approx(max(values), abs=1e-3)
    assert stats.summarise([3.0]) == {
        "n": 1, "p50": None, "p95": None, "p99": None, "p99.9": None, "max": 3.0,
    }  # fmt: skip


def test_jitter_is_zero_for_regular_arrivals_and_measured_from_the_period() -> None:
    regular = [40.0 * n for n in range(101)]
    assert stats.jitter(regular, 40.0) == {
        "n": 100, "std_ms": 0.0, "p99_deviation_ms": 0.0, "max_gap_ms": 40.0,
    }  # fmt: skip
    # Regular, but at another rate than asked for.
    assert stats.jitter(regular, 50.0)["p99_deviation_ms"] == 10.0
    assert stats.jitter(regular, None)["p99_deviation_ms"] == 0.0


def test_one_late_frame_shows_as_two_odd_gaps() -> None:
    arrivals = [0.0, 100.0, 230.0, 300.0, 400.0]  # gaps 100, 130, 70, 100
    found = stats.jitter(arrivals, 100.0)
    assert found["std_ms"] == pytest.approx(np.std([100, 130, 70, 100]), abs=1e-3)
    assert found["max_gap_ms"] == 130.0


def test_misses_count_late_replies_and_their_longest_row() -> None:
    found = stats.misses([10, 60, 60, 10, 60, 60, 60, 50], deadline_ms=50)
    assert (found.count, found.ratio, found.longest_run) == (5, 0.625, 3)
    assert stats.misses([1.0, 2.0], deadline_ms=50).longest_run == 0


def test_histogram_counts_in_order_of_value() -> None:
    assert list(stats.histogram([10, 2, 10, 3]).items()) == [("2", 1), ("3", 1), ("10", 2)]
