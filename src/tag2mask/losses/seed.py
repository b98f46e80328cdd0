"""The seed loss of SEC: one mean over all seeds, background or not."""

import torch.nn.functional as F
from torch import Tensor

from tag2mask.data.classes import UNLABELLED


def seed_loss(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of -log H over an image's seeds (Kolesnikov & Lampert, "Seed, Expand and Constrain", ECCV 2016, eq. 3).

    Unlike the balanced seed loss it has one normaliser: where most seeds are background, background decides.

    Args:
        scores: logits (N, C + 1, h, w); their softmax is H.
        labels: seeds (N, h, w), 255 unlabelled.

    Returns:
        (sum over images, N), float32. An image without a seed adds 0 with zero gradient.
    """
    labels = labels.long()
    value = F.cross_entropy(scores.float(), labels, ignore_index=UNLABELLED, reduction="none").sum((1, 2))
    seeds = (labels != UNLABELLED).sum((1, 2))
    return (value / seeds.clamp(min=1)).sum(), value.new_full((), len(value))
