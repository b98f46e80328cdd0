import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tag2mask.losses.balanced_seed import balanced_seed_loss


def plain(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Kim eq. 3.8 as printed, image by image, averaged over the batch by the caller."""
    total = 0.0
    for image, seeds in zip(logits, labels, strict=True):
        h = image.softmax(0)
        foreground = [(c, u) for c in range(1, len(h)) for u in (seeds == c).nonzero().tolist()]
        background = (seeds == 0).nonzero().tolist()
        if foreground:
            total -= sum(float(h[c, y, x].log()) for c, (y, x) in foreground) / len(foreground)
        if background:
            total -= sum(float(h[0, y, x].log()) for y, x in background) / len(background)
    return total


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(0, 1, 2, 255), (0, 255), (1, 2), (255,)]))
def test_equals_the_formula(seed: int, choices: tuple[int, ...]) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64).float()
    labels = torch.tensor(choices)[torch.randint(len(choices), (2, 4, 5))]
    value, count = balanced_seed_loss(logits, labels)
    assert abs(float(value) - plain(logits, labels)) < 1e-4
    assert int(count) == 2


def test_no_seeds_give_zero_gradient_not_nan() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    value, count = balanced_seed_loss(logits, torch.full((1, 4, 4), 255))
    (value / count).backward()
    assert logits.grad is not None
    assert not logits.grad.any()
