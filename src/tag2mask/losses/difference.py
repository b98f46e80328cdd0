"""The loss of difference detection: pixels where two masks differ count as much as those where they agree."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tag2mask.errors import DataError


def difference_loss(
    logits: Tensor, differs: Tensor, *, inside: Tensor | None = None, samples: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One term J of L_change (Shimoda & Yanai, SSDD, ICCV 2019, eq. 5, 9 and 10), its halves balanced.

    An image's loss is half the mean of -log sigma(d) over the pixels with M = 1 plus half the mean of
    -log(1 - sigma(d)) over those with M = 0, so that rare differences count as much as the rest. A half without pixels
    is 0; the other keeps its factor 1/2. J is printed as a log-likelihood and its mean is over all pixels; the sign and
    the halves are those of the authors' code. That takes each mean over the batch's pixels at once; here it is taken
    per image and images are averaged, so that the loss does not depend on how a batch is divided.

    Args:
        logits: d (N, h, w), floats; half precision is worked on in float32.
        differs: M, bool (N, h, w): where the other mask differs.
        inside: the pixels that count, bool (N, h, w); None takes all.
        samples: the images that count, bool (N,): a bad sample, one that loses a class, does not. None takes all.

    Returns:
        (sum over images, number of images that count). Both are 0, with zero gradient, if none does.

    Raises:
        DataError: shapes or types are not as above.
    """
    if logits.ndim != 3 or not logits.is_floating_point():
        raise DataError(f"logits must be floats of shape (N, h, w), not {logits.dtype} of shape {tuple(logits.shape)}")
    _check_bool("differs", differs, logits.shape)
    counted = torch.ones_like(differs)
    if inside is not None:
        _check_bool("inside", inside, logits.shape)
        counted = counted & inside
    if samples is not None:
        _check_bool("samples", samples, logits.shape[:1])
        counted = counted & samples[:, None, None]
    # What does not count is replaced before the logarithm, so that no infinity of it comes back as NaN.
    d = logits.to(torch.promote_types(logits.dtype, torch.float32)).where(counted, 0)
    total = d.new_zeros(())
    for half, likelihood in ((counted & differs, F.logsigmoid(d)), (counted & ~differs, F.logsigmoid(-d))):
        total = total - ((likelihood * half).sum((1, 2)) / half.sum((1, 2)).clamp(min=1)).sum() / 2
    return total, total.new_full((), len(logits)) if samples is None else samples.sum().to(total.dtype)


def _check_bool(name: str, values: Tensor, shape: torch.Size) -> None:
    if values.dtype != torch.bool or values.shape != shape:
        raise DataError(
            f"{name} must be bool of shape {tuple(shape)}, not {values.dtype} of shape {tuple(values.shape)}"
        )
