"""Metrics: closed forms, the reference libraries where they run, refusals by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sim_stream.errors import CheckpointError, InvalidInput, Unavailable
from train.convnets import ALEXNET_TAPS, alexnet, vgg16
from train.external import FILES
from train.losses import psnr_db
from train.measures import MAX_PSNR_DB, psnr8
from train.metrics import pixels
from train.metrics.distances import Moments, cmmd, frechet, gaussian_mmd
from train.metrics.features import check_clip, clip_pixels, inception
from train.metrics.inception import FidInception
from train.metrics.lpips import SCALE, SHIFT, Lpips, linear_weights
from train.metrics.suite import NAMES, PAIRED, SETS, Distance, Suite

CPU = torch.device("cpu")


def images(n: int, size: int = 32, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_psnr_of_a_known_error() -> None:
    x = torch.zeros(2, 3, 8, 8)
    assert pixels.psnr(x + 0.2, x).tolist() == pytest.approx([20.0, 20.0], abs=1e-4)
    torch.testing.assert_close(
        pixels.psnr(images(3, seed=1), images(3)), psnr_db(images(3, seed=1), images(3))
    )


def test_ssim_of_constant_images_is_its_luminance_term() -> None:
    """Without variance (2ab + c1) / (a^2 + b^2 + c1) is left, on [0, 1] with c1 = 0.01^2."""
    a, b = torch.full((1, 3, 32, 32), 0.2), torch.full((1, 3, 32, 32), -0.4)
    p, q = 0.6, 0.3
    wanted = (2 * p * q + 1e-4) / (p * p + q * q + 1e-4)
    # fp32 variances of constants are differences of equal numbers, not quite zero.
    assert pixels.ssim(a, b).item() == pytest.approx(wanted, rel=1e-3)
    assert pixels.ssim(images(2), images(2)).tolist() == pytest.approx([1.0, 1.0])


def test_ms_ssim_is_one_for_equal_images_and_falls_with_noise() -> None:
    x = images(1, 176)
    noisy = (x + 0.3 * images(1, 176, seed=1)).clamp(-1, 1)
    assert pixels.ms_ssim(x, x).item() == pytest.approx(1.0)
    assert 0.3 < pixels.ms_ssim(noisy, x).item() < 0.99


def test_moments_of_batches_are_those_of_all_vectors() -> None:
    x = torch.randn(50, 4, dtype=torch.float64)
    moments = Moments()
    for part in x.split(7):
        moments.add(part)
    mean, covariance = moments.gaussian()
    np.testing.assert_allclose(mean, x.mean(0))
    np.testing.assert_allclose(covariance, np.cov(x.numpy().T))
    with pytest.raises(InvalidInput, match="samples"):
        Moments().gaussian()


def test_frechet_distance_of_known_gaussians() -> None:
    """|m|^2 for a shift; (sqrt(a) - sqrt(b))^2 a dimension for commuting covariances."""
    eye = torch.eye(3, dtype=torch.float64)
    zero, shift = torch.zeros(3, dtype=torch.float64), torch.tensor([1.0, 2.0, 2.0]).double()
    assert frechet((zero, eye), (shift, eye)) == pytest.approx(9.0)
    a, b = torch.diag(torch.tensor([1.0, 4.0, 9.0])), torch.diag(torch.tensor([4.0, 4.0, 1.0]))
    turn, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    turned = [turn @ c.double() @ turn.T for c in (a, b)]
    assert frechet((zero, turned[0]), (zero, turned[1])) == pytest.approx(1.0 + 0.0 + 4.0)
    singular = torch.diag(torch.tensor([1.0, 0.0, 0.0])).double()
    assert frechet((zero, singular), (zero, singular)) == pytest.approx(0.0, abs=1e-7)


def test_frechet_distance_equals_torchmetrics_with_the_same_features() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Features(nn.Module):
        num_features = 6

        def forward(self, x: Tensor) -> Tensor:
            return x.double().flatten(1)[:, :6]

    reference = FrechetInceptionDistance(Features(), input_img_size=(3, 8, 8), normalize=True)
    reference.set_dtype(torch.float64)
    ours = Distance("FID", Features())
    true, made = (images(40, 8, seed) / 2 + 0.5 for seed in (0, 1))
    reference.update(true, real=True)
    reference.update(made, real=False)
    ours.add(true[:, None], made[:, None])
    # Theirs quantises nothing here; sums in another order, float64 against its float32 inputs.
    assert ours.value() == pytest.approx(reference.compute().item(), rel=1e-3)


def test_mmd_of_gaussians_has_its_closed_form() -> None:
    """For N(0, s^2) and N(m, s^2) in d dimensions with kernel width w, v = w^2 + 2 s^2:
    2 (w^2 / v)^(d/2) (1 - exp(-m^2 / (2 v))), and 2/n (1 - (w^2 / v)^(d/2)) of bias."""
    torch.manual_seed(0)
    n, d, s, w, m = 4000, 2, 1.0, 2.0, 3.0
    x = s * torch.randn(n, d, dtype=torch.float64)
    y = s * torch.randn(n, d, dtype=torch.float64)
    y[:, 0] += m
    v = w * w + 2 * s * s
    same = (w * w / v) ** (d / 2)
    wanted = 2 * same * (1 - np.exp(-m * m / (2 * v))) + 2 / n * (1 - same)
    # Sampling error of 4,000 points is about 1/sqrt(4000).
    assert gaussian_mmd(x, y, sigma=w) == pytest.approx(wanted, abs=0.02)
    assert gaussian_mmd(x, x, sigma=w) == pytest.approx(0.0, abs=1e-12)


def test_mmd_and_cmmd_of_two_points() -> None:
    x, y = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]])
    assert gaussian_mmd(x, y, sigma=5.0) == pytest.approx(2 - 2 * np.exp(-0.5))
    assert cmmd(x, y) == pytest.approx(1000 * (2 - 2 * np.exp(-25 / 200)))


@pytest.mark.parametrize("network", ["alex", "vgg"])
def test_lpips_has_the_published_linear_layers(network: str) -> None:
    weights = linear_weights(network)
    widths = {"alex": [64, 192, 384, 256, 256], "vgg": [64, 128, 256, 512, 512]}[network]
    assert [len(w) for w in weights] == widths
    assert all((w >= 0).all() for w in weights)  # distances cannot be negative


def test_lpips_is_the_weighted_distance_of_unit_activations() -> None:
    torch.manual_seed(0)
    network, weights = alexnet(), linear_weights("alex")
    metric = Lpips(network, weights)
    x, y = images(2, 64), images(2, 64, seed=1)
    assert metric(x, x).tolist() == [0.0, 0.0]
    shift, scale = (torch.tensor(v).view(3, 1, 1) for v in (SHIFT, SCALE))
    total = np.zeros(2)
    for a, b, w in zip(
        network((y - shift) / scale), network((x - shift) / scale), weights, strict=True
    ):
        p, q = (f.numpy() / np.sqrt((f.numpy() ** 2).sum(1, keepdims=True)) for f in (a, b))
        total += ((p - q) ** 2 * w.numpy()[:, None, None]).sum(1).mean((1, 2))
    np.testing.assert_allclose(metric(y, x), total, rtol=1e-4)
    assert len(ALEXNET_TAPS) == len(weights) == 5


def test_lpips_equals_the_lpips_package() -> None:
    lpips = pytest.importorskip("lpips", reason="lpips needs torchvision", exc_type=ImportError)
    reference = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    network = vgg16((3, 8, 15, 22, 29))
    state = {
        f"features.{key.split('.', 1)[1]}": value
        for key, value in reference.net.state_dict().items()
    }
    metric = Lpips(network.load(state, "lpips"), linear_weights("vgg"))
    x, y = images(2, 64), images(2, 64, seed=1)
    torch.testing.assert_close(metric(y, x), reference(y, x).flatten())


def test_the_fid_network_has_the_published_size() -> None:
    """torchvision's Inception v3 without its side head has 23,834,568; 8 more classes."""
    with torch.device("meta"):
        network = FidInception()
        assert network(torch.zeros(2, 3, 256, 256)).shape == (2, 2048)
    assert sum(p.numel() for p in network.parameters()) == 23_834_568 + 8 * 2049
    names = set(network.state_dict())
    assert {"Conv2d_1a_3x3.conv.weight", "Mixed_7c.branch3x3dbl_3b.bn.bias", "fc.bias"} <= names


def test_clips_pixels_are_resized_and_normalised() -> None:
    x = clip_pixels(torch.zeros(1, 3, 256, 256))
    assert x.shape == (1, 3, 336, 336)
    assert x[0, 2, 0, 0].item() == pytest.approx((0.5 - 0.40821073) / 0.27577711, rel=1e-4)
    with pytest.raises(InvalidInput, match="10 or more for FVD"):
        check_clip(torch.zeros(1, 9, 3, 8, 8))


def test_without_their_files_metrics_are_refused_by_name_and_the_rest_computed(
    tmp_path: Path,
) -> None:
    suite = Suite.open(NAMES, tmp_path, CPU, frames=14)
    assert set(suite.refused) == {"LPIPS-alex", "LPIPS-vgg", *SETS}
    for name, why in suite.refused.items():
        assert any(file.name in why for file in FILES.values()), (name, why)
    x, y = images(2, 176)[:, None], images(2, 176, seed=1)[:, None]
    suite.add(x, y)
    found = suite.result()
    assert {"PSNR", "SSIM", "MS-SSIM"} <= found.keys()
    assert not {*SETS, "LPIPS-alex"} & found.keys()
    assert len(found["per_horizon"]["PSNR"]) == 1
    with pytest.raises(InvalidInput, match="metrics: got IS"):
        Suite.open(("IS",), tmp_path, CPU, frames=14)
    assert "FVD needs 10 frames" in Suite.open(("FVD",), tmp_path, CPU, frames=9).refused["FVD"]


def test_a_network_file_that_is_not_the_known_one_is_an_error(tmp_path: Path) -> None:
    torch.save(FidInception().state_dict(), tmp_path / FILES["inception"].name)
    with pytest.raises(CheckpointError, match=r"SHA-256 is \w+, that of pytorch-fid"):
        inception(tmp_path, CPU)
    with pytest.raises(CheckpointError):
        Suite.open(("FID",), tmp_path, CPU, frames=14)
    with pytest.raises(Unavailable):
        inception(None, CPU)


def test_paired_figures_come_per_horizon() -> None:
    suite = Suite.open(("PSNR",), None, CPU, frames=2)
    x = torch.zeros(3, 2, 3, 16, 16)
    made = x.clone()
    made[:, 0] += 0.2
    made[:, 1] += 0.02
    suite.add(x, made)
    assert suite.result()["per_horizon"]["PSNR"] == pytest.approx([20.0, 40.0], abs=1e-3)
    assert set(PAIRED) | set(SETS) == set(NAMES)


def test_equal_frames_have_a_psnr_that_a_mean_can_hold() -> None:
    suite = Suite.open(("PSNR",), None, CPU, frames=2)
    x = torch.zeros(1, 2, 3, 16, 16)
    made = x.clone()
    made[:, 1] += 0.2
    suite.add(x, made)
    assert suite.result()["PSNR"] == pytest.approx((MAX_PSNR_DB + 20.0) / 2, abs=1e-3)
    frame = np.zeros((8, 8, 3), np.uint8)
    assert psnr8(frame, frame) == psnr_db(x[0, :1], x[0, :1]).item() == MAX_PSNR_DB
    assert psnr8(frame, frame + np.uint8(255)) == 0.0


@pytest.mark.parametrize(("count", "too_small"), [(6, True), (7, False)])
def test_a_distance_says_how_many_samples_it_had_and_how_many_it_takes(
    count: int, too_small: bool
) -> None:
    suite = suite_of(lambda x: x.flatten(1)[:, :6])
    suite.add(images(count, 8)[:, None], images(count, 8, seed=1)[:, None])
    found = suite.result()["samples"]["FID"]
    assert found == {"count": count, "sound_from": 7, "too_small": too_small}


@pytest.mark.parametrize(
    ("count", "scale", "why"), [(1, 1.0, "samples: got 1"), (4, float("nan"), "not finite")]
)
def test_a_distance_that_cannot_be_computed_is_refused_and_the_rest_stays(
    count: int, scale: float, why: str
) -> None:
    suite = suite_of(lambda x: scale * x.flatten(1)[:, :6])
    x = images(count, 8)[:, None]
    suite.add(x, x)
    found = suite.result()
    assert "FID" not in found and why in found["refused"]["FID"]
    assert found["PSNR"] == MAX_PSNR_DB


def suite_of(extract: Callable[[Tensor], Tensor]) -> Suite:
    suite = Suite.open(("PSNR",), None, CPU, frames=1)
    suite.distances["FID"] = Distance("FID", extract)
    return suite
