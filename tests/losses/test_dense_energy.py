import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tag2mask.errors import DataError, SettingsError
from tag2mask.losses.dense_energy import dense_energy
from tag2mask.refine import lattice
from tests.refine.test_dense_crf import (
    Floats,
    Photo,
    blotchy_photo,
    gaussian_kernel,
    lattice_kernel,
    pixel_features,
    smooth_probabilities,
)

SXY, SRGB = 5.0, 15.0


def example(seed: int = 0, size: tuple[int, int] = (7, 9)) -> tuple[Tensor, Tensor, Tensor]:
    """Two photographs with probabilities of four classes, and a mask."""
    photos = [blotchy_photo(*size, seed=seed + i) for i in range(2)]
    probabilities = np.stack([smooth_probabilities(4, *size, seed=seed + i) for i in range(2)])
    mask = torch.rand(2, *size, generator=torch.Generator().manual_seed(seed)) < 0.7
    return torch.from_numpy(probabilities), torch.from_numpy(np.stack(photos)).movedim(-1, 1).contiguous(), mask


def symmetric(photo: Photo) -> Floats:
    kernel = lattice_kernel(pixel_features(photo, SXY, SRGB))
    return (kernel + kernel.T) / 2


def exact(photo: Photo) -> Floats:
    return gaussian_kernel(pixel_features(photo, SXY, SRGB))


def plain(probabilities: Tensor, images: Tensor, mask: Tensor, kernel: Any) -> list[float]:
    """E of each image by its sum over pairs of pixels."""
    energies = []
    for s, image, m in zip(probabilities, images, mask, strict=True):
        k = kernel(image.movedim(0, -1).numpy())
        s, weight = s.flatten(1).double().numpy(), m.flatten().double().numpy()
        energy = 0.0
        for u, v in np.ndindex(k.shape):
            energy += weight[u] * weight[v] * k[u, v] * float((s[:, u] * (1 - s[:, v])).sum())
        energies.append(energy)
    return energies


@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_sum_over_pairs(masked: bool) -> None:
    """With the lattice, here written as a matrix."""
    probabilities, images, mask = example()
    value, count = dense_energy(probabilities, images, sxy=SXY, srgb=SRGB, mask=mask if masked else None)
    used = mask if masked else torch.ones_like(mask)
    assert float(value) == pytest.approx(sum(plain(probabilities, images, used, symmetric)), rel=1e-5)
    assert int(count) == 2


def test_is_a_constant_share_of_exact_gaussians_energy() -> None:
    """The lattice's sums are smaller than exact ones, by a factor that hardly depends on the probabilities."""
    _, images, mask = example()
    shares = []
    for seed in range(4):
        probabilities, _, _ = example(10 + seed)
        value, _ = dense_energy(probabilities, images, sxy=SXY, srgb=SRGB)
        shares.append(float(value) / sum(plain(probabilities, images, torch.ones_like(mask), exact)))
    assert min(shares) > 0.4
    assert max(shares) < 0.6
    assert max(shares) < 1.1 * min(shares)


def test_images_do_not_touch_each_other() -> None:
    probabilities, images, mask = example(1)
    both, _ = dense_energy(probabilities, images, sxy=SXY, srgb=SRGB, mask=mask)
    apart = [
        dense_energy(probabilities[i : i + 1], images[i : i + 1], sxy=SXY, srgb=SRGB, mask=mask[i : i + 1])[0]
        for i in range(2)
    ]
    assert float(both) == pytest.approx(float(torch.stack(apart).sum()), rel=1e-6)


def test_gradient_is_the_filters_and_that_of_differences() -> None:
    probabilities, images, mask = example(2)
    leaf = probabilities.clone().requires_grad_()
    dense_energy(leaf, images, sxy=SXY, srgb=SRGB, mask=mask)[0].backward()
    assert leaf.grad is not None
    filtered = lattice.bilateral_filter(
        images, torch.cat([probabilities * mask[:, None], mask[:, None].float()], 1), sxy=SXY, srgb=SRGB
    )
    assert torch.allclose(leaf.grad, mask[:, None] * (filtered[:, 4:] - 2 * filtered[:, :4]), atol=1e-5)
    # The energy is quadratic, so that central differences have no error but that of rounding, however large the step.
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        step = torch.randn(leaf.shape, generator=generator)
        above, below = (
            dense_energy(probabilities + sign * step, images, sxy=SXY, srgb=SRGB, mask=mask)[0] for sign in (1, -1)
        )
        assert float(above - below) / 2 == pytest.approx(float((leaf.grad * step).sum()), rel=1e-3, abs=1e-2)


def test_one_colour_with_one_label_costs_least() -> None:
    """Two halves of two colours: an edge of labels along the colours' is cheap, one across them dear."""
    images = torch.zeros(1, 3, 12, 12, dtype=torch.uint8)
    images[..., 6:] = 200
    along = torch.zeros(1, 2, 12, 12)
    along[:, 0, :, :6] = along[:, 1, :, 6:] = 1
    across = along.transpose(2, 3)
    cheap, dear = (float(dense_energy(s, images, sxy=SXY, srgb=SRGB)[0]) for s in (along, across))
    assert abs(cheap) < 1e-2
    assert dear > 100


def test_empty_masks_and_maps_are_zero_with_zero_gradient() -> None:
    for size in ((7, 9), (0, 9)):
        probabilities = torch.rand(2, 3, *size).requires_grad_()
        images, mask = torch.zeros(2, 3, *size, dtype=torch.uint8), torch.zeros(2, *size, dtype=torch.bool)
        value, count = dense_energy(probabilities, images, sxy=SXY, srgb=SRGB, mask=mask)
        value.backward()
        assert float(value.detach()) == 0
        assert int(count) == 2
        assert probabilities.grad is not None
        assert not probabilities.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_float32_under_autocast(dtype: torch.dtype) -> None:
    probabilities, images, mask = example(3)
    half = probabilities.to(dtype)
    with torch.autocast("cpu", dtype):
        value, count = dense_energy(half, images, sxy=SXY, srgb=SRGB, mask=mask)
    assert value.dtype == count.dtype == torch.float32
    assert torch.equal(value, dense_energy(half.float(), images, sxy=SXY, srgb=SRGB, mask=mask)[0])


def test_bad_arguments() -> None:
    probabilities, images, mask = example()
    with pytest.raises(DataError, match=re.escape("images, torch.float32 (2, 3, 7, 9), must be")):
        dense_energy(probabilities, images.float(), sxy=SXY, srgb=SRGB)
    with pytest.raises(DataError, match=re.escape("mask must have the shape (2, 7, 9), not (1, 7, 9)")):
        dense_energy(probabilities, images, sxy=SXY, srgb=SRGB, mask=mask[:1])
    with pytest.raises(SettingsError, match="srgb must be a positive number, not 0"):
        dense_energy(probabilities, images, sxy=SXY, srgb=0)
    with pytest.raises(SettingsError, match=r"sxy 5.0, srgb 0.0001: standard deviation too small"):
        dense_energy(probabilities, images, sxy=SXY, srgb=1e-4)
