import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tag2mask.losses.cam_consistency import cam_consistency_loss


def plain(maps: Tensor, dilated: Tensor, tags: Tensor) -> float:
    """Eq. 2.2 of every photograph, pixel by pixel, summed over photographs."""
    total = 0.0
    photographs, classes, height, width = maps.shape
    for n in range(photographs):
        for c, y, x in np.ndindex(classes, height, width):
            if tags[n, c]:
                own = float(maps[n, c, y, x])
                dense = max(own, float(sum(block[n, c, y, x] for block in dilated)) / len(dilated))
                total += (max(dense, 0) - max(own, 0)) ** 2 / (classes * height * width)
    return total


def example(seed: int, blocks: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(2, 3, 2, 4, generator=generator, dtype=torch.float64)
    dilated = 2 * torch.randn(blocks, 2, 3, 2, 4, generator=generator, dtype=torch.float64)
    return maps, dilated, (torch.rand(2, 3, generator=generator) < 0.6).float()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_equals_a_loop(seed: int, blocks: int) -> None:
    maps, dilated, tags = example(seed, blocks)
    value, count = cam_consistency_loss(maps, dilated, tags)
    # The count covers the batch: the quotient is the mean over its photographs.
    assert float(value / count) == pytest.approx(plain(maps, dilated, tags) / len(maps), rel=1e-5)


def test_no_gradient_goes_through_the_target() -> None:
    maps, dilated, tags = example(1)
    maps.requires_grad_()
    dilated.requires_grad_()
    value, _ = cam_consistency_loss(maps, dilated, tags)
    (found,) = torch.autograd.grad(value, maps, retain_graph=True)
    (through,) = torch.autograd.grad(value, dilated, allow_unused=True)
    assert through is None
    # With the dense map held, the slope at M^0 is that of the square alone.
    with torch.no_grad():
        dense = torch.maximum(maps, dilated.mean(0)).relu()
        expected = -2 * (dense - maps.relu()) * (maps > 0) * tags[:, :, None, None]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert found.abs().max() > 0.1
    # By differences, away from the corners: only where the dense map is not M^0 itself is its own change no part of it.
    step = 1e-2
    for place in zip(*torch.nonzero((dense > maps.relu() + 0.1) & (maps > 0.1), as_tuple=True), strict=True):
        sides = []
        for sign in (1, -1):
            moved = maps.detach().clone()
            moved[place] += sign * step
            sides.append(float(cam_consistency_loss(moved, dilated, tags)[0]))
        assert float(found[place]) == pytest.approx((sides[0] - sides[1]) / (2 * step), abs=2e-3)


def test_without_a_tag_there_is_nothing_to_learn() -> None:
    maps, dilated, _ = example(2)
    maps.requires_grad_()
    value, count = cam_consistency_loss(maps, dilated, torch.zeros(2, 3))
    value.backward()
    assert (float(value.detach()), int(count)) == (0, maps.numel())
    assert maps.grad is not None
    assert not maps.grad.any()


def test_half_precision_is_summed_in_single() -> None:
    maps, dilated, tags = example(3)
    value, count = cam_consistency_loss(maps.bfloat16(), dilated.bfloat16(), tags)
    assert value.dtype == count.dtype == torch.float32
    assert float(value) == pytest.approx(float(cam_consistency_loss(maps, dilated, tags)[0]), rel=0.05)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu() -> None:
    maps, dilated, tags = example(4)
    value, _ = cam_consistency_loss(maps.cuda(), dilated.cuda(), tags.cuda())
    assert float(value) == pytest.approx(float(cam_consistency_loss(maps, dilated, tags)[0]), rel=1e-5)
