import math

import torch

from tag2mask.losses.classification import multi_label_loss


def test_equals_the_formula() -> None:
    scores, targets = torch.tensor([[2.0, -1.0], [0.5, 3.0]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    total = 0.0
    for s, t in zip(scores.flatten().tolist(), targets.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-s))
        total -= t * math.log(p) + (1 - t) * math.log(1 - p)
    value, count = multi_label_loss(scores, targets)
    assert abs(float(value) - total) < 1e-5
    assert int(count) == 4


def test_half_precision_counts_right() -> None:
    """81 classes of 5 photographs, which bfloat16 takes for 404."""
    targets = torch.zeros(5, 81, dtype=torch.bfloat16)
    value, count = multi_label_loss(torch.zeros(5, 81, dtype=torch.bfloat16), targets)
    assert value.dtype == count.dtype == torch.float32
    assert int(count) == 405
