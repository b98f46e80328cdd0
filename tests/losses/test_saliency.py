import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tag2mask.losses.saliency import saliency_loss


def plain(scores: torch.Tensor, labels: torch.Tensor, present: torch.Tensor) -> float:
    """Eq. 2.7 as printed, pixel by pixel, summed over images."""
    total = 0.0
    for image, marks, tags in zip(scores, labels, present, strict=True):
        h = image.softmax(0)
        classes = [c for c in range(1, len(h)) if tags[c]]
        terms: dict[int, list[float]] = {0: [], 1: []}
        for y, x in torch.cartesian_prod(torch.arange(h.shape[1]), torch.arange(h.shape[2])).tolist():
            mark = int(marks[y, x])
            if mark == 0:
                terms[0].append(float(h[0, y, x].log()))
            elif mark != 255 and classes:
                terms[1].append(float(h[classes, y, x].sum().log()))
        total -= sum(sum(values) / len(values) for values in terms.values() if values)
    return total


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(0, 1, 255), (0, 255), (1, 255), (255,)]))
def test_equals_the_formula(seed: int, choices: tuple[int, ...]) -> None:
    torch.manual_seed(seed)
    scores = 3 * torch.randn(3, 4, 3, 5)
    labels = torch.tensor(choices)[torch.randint(len(choices), (3, 3, 5))].to(torch.uint8)
    present = torch.tensor([[True, True, False, True], [True, False, True, False], [True, False, False, False]])
    value, count = saliency_loss(scores, labels, present)
    assert abs(float(value) - plain(scores, labels, present)) < 1e-4
    assert int(count) == 3


def test_gradient() -> None:
    torch.manual_seed(0)
    scores = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 255])[torch.randint(3, (2, 3, 3))]
    present = torch.tensor([[True, True, False, True], [True, False, False, False]])
    assert torch.autograd.gradcheck(lambda s: saliency_loss(s, labels, present)[0], (scores,))


@pytest.mark.parametrize(
    ("label", "tags"), [(255, [True, True, False]), (1, [True, False, False]), (1, [False, False, False])]
)
def test_nothing_to_learn_gives_zero_gradient(label: int, tags: list[bool]) -> None:
    scores = torch.randn(1, 3, 4, 4, requires_grad=True)
    value, count = saliency_loss(scores, torch.full((1, 4, 4), label), torch.tensor([tags]))
    (value / count).backward()
    assert value.item() == 0
    assert scores.grad is not None
    assert torch.equal(scores.grad, torch.zeros_like(scores))


def test_a_certain_mistake_is_finite_in_half_precision() -> None:
    scores = torch.zeros(1, 3, 2, 2, dtype=torch.bfloat16)
    scores[:, 2] = 1000
    scores.requires_grad_()
    value, _ = saliency_loss(scores, torch.tensor([[[0, 1], [0, 1]]]), torch.tensor([[True, True, False]]))
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == 2000
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


def test_which_present_class_is_all_the_same() -> None:
    """Scores of two present classes may change places; with an absent one they may not."""
    torch.manual_seed(1)
    scores, labels = torch.randn(1, 4, 3, 3), torch.ones(1, 3, 3)
    present = torch.tensor([[True, True, True, False]])
    loss, swapped, wrong = (
        saliency_loss(scores[:, o], labels, present)[0] for o in ([0, 1, 2, 3], [0, 2, 1, 3], [0, 3, 2, 1])
    )
    assert torch.allclose(loss, swapped)
    assert not torch.allclose(loss, wrong)
