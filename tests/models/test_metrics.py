"""The metrics against scikit-image and against plain integer arithmetic, on real photographs."""

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from perturb.models.metrics import CleanSsim, distances, max_squares, ssim_is_surely_above
from perturb.models.metrics_gpu import DeviceMetrics
from perturb.schemas.image import Pixels

PHOTOS = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]
CROPS = [np.ascontiguousarray(photo[20:200, 30:250]) for photo in PHOTOS]


def noisy(image: Pixels, levels: int, *, share: float = 1.0, seed: int = 0) -> Pixels:
    generator = np.random.default_rng(seed)
    noise = generator.integers(-levels, levels + 1, image.shape) * (generator.random(image.shape) < share)
    return np.clip(image.astype(np.int16) + noise, 0, 255).astype(np.uint8)


def reference_ssim(x: Pixels, y: Pixels) -> float:
    return float(
        structural_similarity(
            x, y, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
        )
    )


@pytest.mark.parametrize("levels", [1, 2, 8, 60])
@pytest.mark.parametrize("image", CROPS)
def test_ssim_is_that_of_scikit_image(image: Pixels, levels: int) -> None:
    perturbed, ssim = noisy(image, levels), CleanSsim(image)
    expected = reference_ssim(image, perturbed)
    assert abs(ssim(perturbed) - expected) < 1e-7
    assert abs(ssim.exact(perturbed) - expected) < 1e-12


def test_ssim_of_flat_and_extreme_images() -> None:
    black, white = np.zeros((40, 30, 3), np.uint8), np.full((40, 30, 3), 255, np.uint8)
    for x, y in ((black, black), (white, white), (black, white), (white, black)):
        assert CleanSsim(x)(y) == pytest.approx(reference_ssim(x, y), abs=1e-7)


@given(st.integers(0, 255), st.floats(0.001, 1), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_distances_count_integers(levels: int, share: float, seed: int) -> None:
    clean = CROPS[0][:40, :50]
    perturbed = noisy(clean, levels, share=share, seed=seed)
    found = distances(clean, perturbed)
    delta = clean.astype(int) - perturbed
    assert found.linf_levels == abs(delta).max()
    assert found.l0 == (delta != 0).sum()
    assert found.l0_pixels == (delta != 0).any(axis=2).sum()
    assert found.squares == (delta**2).sum()
    assert found.l2 == pytest.approx(np.linalg.norm(delta / 255))
    assert found.rmse == pytest.approx(np.sqrt(np.mean((delta / 255) ** 2)))
    if found.squares:
        assert found.psnr == pytest.approx(peak_signal_noise_ratio(clean, perturbed))
    else:
        assert found.psnr is None


@given(st.floats(0, 100), st.integers(1, 3 * 4096**2))
@settings(deadline=None)
def test_the_psnr_gate_turns_at_one_square(min_psnr: float, values: int) -> None:
    most = max_squares(min_psnr, values)
    assert most >= 0
    if most:
        assert 10 * np.log10(255**2 * values / most) >= min_psnr - 1e-9
    assert 10 * np.log10(255**2 * values / (most + 1)) <= min_psnr + 1e-9


def test_psnr_of_whole_decibels_is_met_exactly() -> None:
    # 20 dB is a mean square of 650.25: 2601 over 4 values, and not one more.
    assert max_squares(20.0, 4) == 2601


@given(st.integers(1, 40), st.floats(0.0005, 1), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_the_bound_from_the_error_never_promises_too_much(levels: int, share: float, seed: int) -> None:
    # The bound is tightest on black, where C1 is all that luminance has.
    for clean in (CROPS[1][:60, :60], np.zeros((60, 60, 3), np.uint8)):
        perturbed = noisy(clean, levels, share=share, seed=seed)
        ssim, found = reference_ssim(clean, perturbed), distances(clean, perturbed)
        assert not ssim_is_surely_above(found, ssim + 1e-9, height=60, width=60)


def test_the_bound_proves_small_changes() -> None:
    image = CROPS[0]
    found = distances(image, noisy(image, 1, share=0.02))
    assert ssim_is_surely_above(found, 0.98, height=image.shape[0], width=image.shape[1])


def test_other_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"float64 of shape \(10, 10, 3\)"):
        distances(np.zeros((10, 10, 3)), np.zeros((10, 10, 3)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the clean image has"):
        CleanSsim(np.zeros((10, 40, 3), np.uint8))


def test_on_a_device_the_numbers_are_the_same() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for clean in CROPS:
        images = [noisy(clean, levels, share=share) for levels in (0, 1, 8, 255) for share in (0.01, 1)]
        metrics = DeviceMetrics(clean, device)
        assert metrics.distances(images) == [distances(clean, image) for image in images]
        exact = CleanSsim(clean)
        assert np.allclose(metrics.ssim(images), [exact.exact(image) for image in images], rtol=0, atol=1e-7)
        assert metrics.ssim([]) == []
