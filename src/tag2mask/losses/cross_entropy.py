"""Cross-entropy on the labelled pixels."""

import torch.nn.functional as F
from torch import Tensor

from tag2mask.data.classes import UNLABELLED


def cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel-wise cross-entropy; unlabelled pixels are left out.

    Args:
        logits: scores (N, C + 1, h, w).
        labels: class ids (N, h, w), 255 unlabelled.

    Returns:
        (sum over labelled pixels, number of them). With no labelled pixel the sum is 0 with zero gradient.
    """
    labels = labels.long()
    total = F.cross_entropy(logits.float(), labels, ignore_index=UNLABELLED, reduction="sum")
    return total, (labels != UNLABELLED).sum()
