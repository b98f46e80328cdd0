import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tag2mask.losses.boundary import boundary_loss

Floats = npt.NDArray[np.float64]


def softmax(scores: Floats) -> Floats:
    h: Floats = np.exp(scores - scores.max(1, keepdims=True))
    return h / h.sum(1, keepdims=True)


def plain(scores: Floats, q: Floats) -> float:
    """Mean over pixels of sum_c Q log(Q / H) with floor and clip, pixel by pixel, summed over images."""
    h = np.maximum(softmax(scores), 1e-4)
    images, classes, height, width = h.shape
    total = 0.0
    for n, c, y, x in np.ndindex(images, classes, height, width):
        ratio = min(max(q[n, c, y, x] / h[n, c, y, x], 0.05), 20)
        total += q[n, c, y, x] * np.log(ratio) / (height * width)
    return total


def example(seed: int, spread: float) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(2, 4, 3, 5)) * spread, softmax(rng.normal(size=(2, 4, 3, 5)) * spread)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.3, 2.0, 10.0]))
def test_equals_the_formula(seed: int, spread: float) -> None:
    scores, q = example(seed, spread)
    value, count = boundary_loss(torch.tensor(scores), torch.tensor(q))
    assert float(value) == pytest.approx(plain(scores, q), abs=1e-4)
    assert int(count) == 2


@pytest.mark.parametrize("spread", [0.3, 2.0, 6.0])
def test_gradient_equals_differences(spread: float) -> None:
    scores, q = example(1, spread)
    leaf = torch.tensor(scores, dtype=torch.float32, requires_grad=True)
    boundary_loss(leaf, torch.tensor(q))[0].backward()
    assert leaf.grad is not None
    for index in np.ndindex(scores.shape):
        step = np.zeros_like(scores)
        step[index] = 1e-6
        slope = (plain(scores + step, q) - plain(scores - step, q)) / 2e-6
        assert float(leaf.grad[index]) == pytest.approx(slope, abs=1e-5)


def test_unclipped_gradient_is_the_difference_of_the_probabilities() -> None:
    scores, q = example(2, 0.3)
    leaf = torch.tensor(scores, dtype=torch.float32, requires_grad=True)
    boundary_loss(leaf, torch.tensor(q))[0].backward()
    assert leaf.grad is not None
    assert torch.allclose(leaf.grad, torch.tensor((softmax(scores) - q) / 15).float(), atol=1e-6)


def test_the_refined_scores_are_a_constant() -> None:
    scores = torch.randn(1, 3, 4, 4, requires_grad=True)
    refined = scores.softmax(1)
    value, _ = boundary_loss(scores, refined)
    assert float(value.detach()) == pytest.approx(0, abs=1e-6)
    other = torch.randn(1, 3, 4, 4, requires_grad=True)
    boundary_loss(scores, other.softmax(1))[0].backward()
    assert other.grad is None
    assert scores.grad is not None
    assert scores.grad.any()


def test_extremes_stay_finite() -> None:
    """A class that is certain and one that is impossible, in H and in Q, the two agreeing and not."""
    scores = torch.tensor([[[[200.0, -200.0, 0.0]], [[-200.0, 200.0, 0.0]]]], requires_grad=True)
    q = torch.tensor([[[[0.0, 0.0, 1.0]], [[1.0, 1.0, 0.0]]]])
    value, _ = boundary_loss(scores, q)
    # Log of the largest ratio where H misses, 0 where it agrees, log 2 where it does not know.
    assert float(value.detach()) == pytest.approx((np.log(20) + np.log(2)) / 3, abs=1e-5)
    value.backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


def test_no_images_and_no_pixels() -> None:
    for shape in ((0, 3, 4, 4), (2, 3, 0, 4)):
        scores = torch.zeros(shape, requires_grad=True)
        value, count = boundary_loss(scores, torch.zeros(shape))
        value.backward()
        assert float(value.detach()) == 0
        assert int(count) == shape[0]


def test_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    scores, q = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4).softmax(1)
    with torch.autocast("cpu", torch.bfloat16):
        value, count = boundary_loss(scores, q)
    assert value.dtype == count.dtype == torch.float32
    assert torch.equal(value, boundary_loss(scores, q)[0])
    assert boundary_loss(scores.bfloat16(), q.bfloat16())[0].dtype == torch.float32


def test_pixels_beside_the_image_take_no_part() -> None:
    scores, q = example(3, 2.0)
    inside = torch.zeros(len(scores), *scores.shape[2:], dtype=torch.bool)
    inside[0, :, :2] = True
    leaf = torch.tensor(scores, requires_grad=True)
    value, count = boundary_loss(leaf, torch.tensor(q), inside)
    assert float(value.detach()) == pytest.approx(plain(scores[:1, :, :, :2], q[:1, :, :, :2]), rel=1e-4)
    assert int(count) == len(scores)
    value.backward()
    assert leaf.grad is not None
    assert not leaf.grad[(~inside)[:, None].expand_as(leaf)].any()
    assert leaf.grad[0, :, :, :2].any()
