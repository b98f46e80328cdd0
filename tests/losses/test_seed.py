import numpy as np
import numpy.typing as npt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tag2mask.losses.balanced_seed import balanced_seed_loss
from tag2mask.losses.seed import seed_loss


def plain(scores: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> float:
    """Kolesnikov & Lampert, eq. 3, pixel by pixel, summed over images."""
    total = 0.0
    for image, seeds in zip(scores, labels, strict=True):
        h = np.exp(image) / np.exp(image).sum(0)
        where = [(y, x) for y, x in np.ndindex(seeds.shape) if seeds[y, x] != 255]
        if where:
            total -= sum(np.log(h[seeds[y, x], y, x]) for y, x in where) / len(where)
    return total


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(0, 1, 2, 255), (0, 255), (1, 2), (255,)]))
def test_equals_the_formula(seed: int, choices: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(3, 3, 4, 5))
    labels = rng.choice(choices, (3, 4, 5))
    value, count = seed_loss(torch.tensor(scores), torch.tensor(labels, dtype=torch.uint8))
    assert abs(float(value) - plain(scores, labels)) < 1e-4
    assert int(count) == 3


def test_gradient_is_the_softmax_minus_the_label_by_the_number_of_seeds() -> None:
    torch.manual_seed(0)
    scores = torch.randn(1, 3, 2, 3, requires_grad=True)
    labels = torch.tensor([[[0, 1, 255], [2, 255, 1]]])
    seed_loss(scores, labels)[0].backward()
    one_hot = torch.nn.functional.one_hot(labels.clamp(max=3), 4).permute(0, 3, 1, 2)[:, :3]
    expected = (scores.detach().softmax(1) - one_hot) * (labels != 255)[:, None] / 4
    assert scores.grad is not None
    assert torch.allclose(scores.grad, expected, atol=1e-6)


def test_background_outweighs_a_rare_foreground_unlike_in_the_balanced_loss() -> None:
    labels = torch.zeros(1, 10, 10, dtype=torch.uint8)
    labels[0, 0, 0] = 1
    wrong_on_foreground = torch.zeros(1, 2, 10, 10)
    wrong_on_foreground[:, 0] = 8
    assert float(seed_loss(wrong_on_foreground, labels)[0]) < 0.1
    assert float(balanced_seed_loss(wrong_on_foreground, labels)[0]) > 7


def test_an_image_without_seeds_adds_nothing() -> None:
    scores = torch.randn(2, 3, 4, 4, requires_grad=True)
    labels = torch.full((2, 4, 4), 255)
    labels[1, 0, 0] = 1
    value, count = seed_loss(scores, labels)
    (value / count).backward()
    assert scores.grad is not None
    assert not scores.grad[0].any()
    assert scores.grad[1].any()
    assert torch.equal(value, seed_loss(scores[1:], labels[1:])[0])


def test_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    scores, labels = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 4, 4))
    with torch.autocast("cpu", torch.bfloat16):
        value, count = seed_loss(scores, labels)
    assert value.dtype == count.dtype == torch.float32
    assert torch.equal(value, seed_loss(scores, labels)[0])
    assert seed_loss(scores.bfloat16(), labels)[0].dtype == torch.float32
