"""Cross-entropy on the labelled pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tag2mask.data.classes import BACKGROUND, UNLABELLED


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


def foreground_background_cross_entropy(
    scores: Tensor, labels: Tensor, weights: Tensor | None = None
) -> dict[str, tuple[Tensor, Tensor]]:
    """Cross-entropy on pixels labelled background and on those of objects, each by itself, as RRM has it.

    CE_background + CE_foreground of Zhang et al. (RRM, AAAI 2020) is the sum of the two means, which are over the
    pixels of the whole batch. (`balanced_seed_loss` has the same two terms per image.)

    Args:
        scores: logits (N, C + 1, h, w).
        labels: class ids (N, h, w), 255 unlabelled.
        weights: factors of pixels' losses, (N, h, w), without gradient; None for 1. The mean divides by the number of
            pixels, not by the sum of weights: a pixel with a small weight teaches less.

    Returns:
        "background" and "foreground", each (sum over its pixels, their number), float32 or finer. A term without pixels
        is 0 with zero gradient.
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    value = F.cross_entropy(scores, labels.long(), ignore_index=UNLABELLED, reduction="none")
    if weights is not None:
        value = value * weights.detach()
    background = labels == BACKGROUND
    foreground = ~background & (labels != UNLABELLED)
    return {
        name: ((value * pixels).sum(), pixels.sum().to(value.dtype))
        for name, pixels in (("background", background), ("foreground", foreground))
    }
