import torch
from torch import nn

from tag2mask.engine.system import Position
from tag2mask.supervision.fixed_masks import FixedMasks


def test_fixed_masks_are_the_batch_labels() -> None:
    labels = torch.zeros(1, 2, 2)
    targets = FixedMasks()({"labels": labels}, torch.zeros(1, 3, 2, 2), nn.Identity(), Position(0, 1, 0, 0))
    assert targets.labels is labels


def test_they_need_and_tell_nothing_else() -> None:
    assert FixedMasks().needs == frozenset()
    assert repr(FixedMasks()) == "FixedMasks()", "it is part of fingerprints"
