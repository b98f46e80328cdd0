"""The label reassign loss: pixels move towards the class that their own embeddings say they are."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tag2mask.data.classes import BACKGROUND, UNLABELLED
from tag2mask.errors import DataError, SettingsError

LEAST_NORM = 1e-4
"""A shorter embedding points nowhere: its cosines are 0, and it gets no gradient, which would be huge."""


class Reassigned(NamedTuple):
    """Loss, weights and reassigned labels that follow from embeddings.

    Args:
        loss: (sum over labelled pixels, number of them).
        weights: s_{u, y_u} (N, h, w) in 0..1, how much a pixel's embedding supports its label; no gradient, 1 where
            unlabelled. For the weights of a cross-entropy.
        labels: y^ (N, h, w), uint8, 255 where unlabelled.
    """

    loss: tuple[Tensor, Tensor]
    weights: Tensor
    labels: Tensor


def label_reassign(
    hidden: Tensor, labels: Tensor, confidence: Tensor, present: Tensor, *, temperature: float = 0.1
) -> Reassigned:
    """Label reassign loss, a reading of this project's own.

    AALR (Zhang et al., ACM MM 2021) names a loss that reassigns embeddings of labelled pixels so that errors of the
    pseudo-labels are not fitted; no source gives its formula. Here, per image,

        mu_c = confidence-weighted mean of the L2-normalised embeddings labelled c, a constant,
        s_u = softmax over c of cos(f_u, mu_c) / temperature,  y^_u = argmax_c s_uc,
        L_LR = mean over labelled u of -log s_{u, y^_u}.

    Background and present classes take part where they have labelled pixels with confidence above 0; a class without
    takes no part in its image. A label whose class takes no part has the weight 0 and may still be reassigned; where no
    class does, nothing is.

    Args:
        hidden: f, embeddings (N, K, h, w), floats; half precision is worked on in float32, under autocast too.
        labels: class ids (N, h, w) below C, 255 unlabelled.
        confidence: how sure each label is, (N, h, w), at least 0; not read where unlabelled.
        present: classes an image shows, bool (N, C), background first, which counts as present always.
        temperature: above 0; the smaller, the harder s.

    Returns:
        the loss as (sum, number of pixels of the batch), float32 or finer and 0 with zero gradient if no pixel counts;
        weights in the sum's type; labels.

    Raises:
        DataError: the shapes do not fit together.
        SettingsError: temperature is not above 0.
    """
    shape = (len(hidden), *hidden.shape[2:])
    if hidden.ndim != 4 or not tuple(labels.shape) == tuple(confidence.shape) == shape or len(present) != len(hidden):
        raise DataError(
            f"hidden {tuple(hidden.shape)}, labels {tuple(labels.shape)}, confidence {tuple(confidence.shape)} and "
            f"present {tuple(present.shape)} must be (N, K, h, w), (N, h, w), (N, h, w) and (N, C)"
        )
    if not temperature > 0:
        raise SettingsError(f"temperature must be above 0, not {temperature}")
    with torch.autocast(hidden.device.type, enabled=False):  # which would take the products to half precision
        f = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        f = F.normalize(f.where(f.detach().norm(dim=1, keepdim=True) > LEAST_NORM, 0), dim=1)
        labelled = labels != UNLABELLED
        ids = labels.long().where(labelled, BACKGROUND)
        r = confidence.detach().to(f.dtype).masked_fill(~labelled, 0)
        members = F.one_hot(ids, present.shape[1]).movedim(-1, 1).to(f.dtype) * r[:, None]
        taking_part = members.sum((2, 3)) > 0
        taking_part[:, 1:] &= present[:, 1:]
        # A mean's length does not matter to its cosines: the sum serves.
        centres = F.normalize(torch.einsum("nchw,nkhw->nck", members, f.detach()), dim=2)
        cosines = torch.einsum("nck,nkhw->nchw", centres, f)
        # The smallest number, not minus infinity: an image without any class must not become NaN.
        scores = (cosines / temperature).masked_fill(~taking_part[:, :, None, None], torch.finfo(f.dtype).min)
        log_s = scores.log_softmax(1)
        best, reassigned = log_s.max(1)
        counted = labelled & taking_part.any(1)[:, None, None]
        loss = -(best * counted).sum(), counted.sum().to(f.dtype)
        support = log_s.detach().exp() * taking_part[:, :, None, None]
        weights = support.gather(1, ids[:, None])[:, 0].masked_fill(~labelled, 1)
    return Reassigned(loss, weights, reassigned.masked_fill(~counted, UNLABELLED).to(torch.uint8))
