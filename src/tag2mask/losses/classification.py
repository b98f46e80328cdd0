"""The classifier's loss."""

import torch.nn.functional as F
from torch import Tensor


def multi_label_loss(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy of every class (Kim eq. 1.1), to be averaged over images and classes.

    Args:
        scores: logits (N, C).
        targets: 1 for tagged classes, else 0; (N, C).

    Returns:
        (sum, N * C), float32 whatever the targets are: bfloat16 counts exactly to 256 alone.
    """
    total = F.binary_cross_entropy_with_logits(scores.float(), targets.float(), reduction="sum")
    return total, total.new_tensor(targets.numel())
