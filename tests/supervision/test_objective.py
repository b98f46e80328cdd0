import pytest
import torch

from tag2mask.supervision.objective import OBJECTIVES, Objective
from tag2mask.supervision.targets import Targets


def test_terms_add_up_and_weights_multiply() -> None:
    one = Objective({"one": (lambda batch, scores, targets: (scores.sum(), torch.tensor(2)), 1.0)})
    two = Objective({"two": (lambda batch, scores, targets: (batch["x"], torch.tensor(1)), 1.0)})
    losses = (one + 3 * two)({"x": torch.tensor(5.0)}, torch.ones(4), Targets(torch.zeros(1, 1, 1)))
    assert float(losses["one"][0]) == 4
    assert float(losses["two"][0]) == 15


def test_named_objectives_learn_from_labels() -> None:
    labels = torch.tensor([[[0, 1], [255, 1]]])
    right = torch.nn.functional.one_hot(labels.clamp(max=2), 3).permute(0, 3, 1, 2) * 10.0
    for name, build in OBJECTIVES.items():
        good = build()({}, right, Targets(labels))[name]
        bad = build()({}, -right, Targets(labels))[name]
        assert float(good[0]) < float(bad[0]), name


def test_a_name_stands_once() -> None:
    with pytest.raises(ValueError, match="cross_entropy"):
        OBJECTIVES["cross_entropy"]() + OBJECTIVES["cross_entropy"]()
