"""The profiler on a CUDA device."""

import json
from pathlib import Path

import pytest
import torch

from sim_stream.bench import profile
from sim_stream.bench.calibration import calibrate
from sim_stream.bench.options import BenchOptions

pytestmark = pytest.mark.gpu


def test_rates_are_those_of_a_device_not_of_a_host() -> None:
    found = calibrate(torch.device("cuda"), 1, [torch.bfloat16, torch.float32], 1 << 30)
    assert set(found.gemm_tflop_per_s) == {"bf16", "fp32"}
    # Any GPU since 2016 copies faster than 100 GB/s; a host's copies do not.
    assert found.copy_gb_per_s > 100


@pytest.mark.slow
@pytest.mark.parametrize("decoding", ["raster", "jacobi:64"])
def test_full_size_system_is_profiled_without_a_file(tmp_path: Path, decoding: str) -> None:
    options = BenchOptions(
        preset="openviga", random_weights=True, decoding=decoding, paces="free", frames=2,
        warm_up=1, out=tmp_path,
    )  # fmt: skip
    assert profile.run(options) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["system"]["type"] == "bf16"
    assert [line["window"] for line in report["sweep"]][-1] == 256
    fractions = [line["fraction"] for line in report["runs"][0]["roofline"].values()]
    assert min(fractions) > 0
