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
