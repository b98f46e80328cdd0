"""The balanced seed loss: foreground seeds and background seeds count the same, however many there are."""

from torch import Tensor

from tag2mask.data.classes import BACKGROUND, UNLABELLED


def balanced_seed_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over foreground seeds plus mean over background seeds, per image (DSRG; Kim eq. 3.8).

    Args:
        logits: scores (N, C + 1, h, w); their softmax is H.
        labels: seeds (N, h, w), 255 unlabelled.

    Returns:
        (sum over images, N). A term whose set of seeds is empty is 0 with zero gradient.
    """
    labels = labels.long()
    log_h = logits.float().log_softmax(1)
    seeded = labels != UNLABELLED
    value = -log_h.gather(1, labels.where(seeded, BACKGROUND)[:, None])[:, 0]
    total = value.new_zeros(len(value))
    for seeds in (seeded & (labels != BACKGROUND), labels == BACKGROUND):
        total = total + (value * seeds).sum((1, 2)) / seeds.sum((1, 2)).clamp(min=1)
    return total.sum(), seeded.new_tensor(len(total), dtype=log_h.dtype)
