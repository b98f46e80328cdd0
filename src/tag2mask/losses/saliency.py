"""The saliency loss: which pixels are some tagged object, without saying which."""

import torch
from torch import Tensor

from tag2mask.data.classes import BACKGROUND, UNLABELLED


def saliency_loss(scores: Tensor, labels: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over background of -log H^b plus mean over foreground of -log H^f, per image (Kim 2022, eq. 2.7).

    H is the softmax of the scores, H^b its background, H^f the sum over the image's present classes. The mean over
    images is taken as by `balanced_seed_loss`: every image of the batch counts once.

    Args:
        scores: logits (N, C + 1, h, w).
        labels: refined saliency (N, h, w): 0 is background, 255 unlabelled and left out, anything else foreground.
        present: bool (N, C + 1), background first, which is passed over: the classes an image's tags name.

    Returns:
        (sum over images, N). A term without pixels is 0 with zero gradient, and so is the foreground's of an image
        without tags, which has no class to be.
    """
    log_h = scores.to(torch.promote_types(scores.dtype, torch.float32)).log_softmax(1)
    objects = present.clone()
    objects[:, BACKGROUND] = False
    # Not -inf: over no class at all its gradient would be NaN.
    absent = ~objects[:, :, None, None]
    log_foreground = log_h.masked_fill(absent, torch.finfo(log_h.dtype).min).logsumexp(1)
    background = labels == BACKGROUND
    foreground = ~background & (labels != UNLABELLED) & objects.any(1)[:, None, None]
    total = log_h.new_zeros(len(log_h))
    for value, pixels in ((log_h[:, BACKGROUND], background), (log_foreground, foreground)):
        total = total - value.masked_fill(~pixels, 0).sum((1, 2)) / pixels.sum((1, 2)).clamp(min=1)
    return total.sum(), total.new_full((), len(total))
