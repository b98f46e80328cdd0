"""Difference detection: which changes between two masks of an image are to be trusted.

Shimoda and Yanai, "Self-Supervised Difference Detection for Weakly-Supervised Semantic Segmentation" (ICCV 2019),
section 3. A network tells from the image and one mask of a pair where the other one differs. A change that can be
predicted from the mask before it is trusted; one that can be predicted from the mask after it is taken back.

Where the printed formulas contradict each other, these follow the authors' code; docstrings say where.
"""

import torch
from torch import Tensor

from tag2mask.base.versions import Code
from tag2mask.data.classes import BACKGROUND
from tag2mask.errors import DataError

CODE = Code("difference")


def difference_map(before: Tensor, after: Tensor) -> Tensor:
    """M of eq. 1: where two masks differ.

    The paper prints 1 and 0 the other way round; this is the authors' code. 255 is a value like any other.

    Args:
        before: class ids (N, h, w), integers.
        after: the other mask, of the same shape.

    Returns:
        bool (N, h, w).

    Raises:
        DataError: shapes or types are not as above.
    """
    _check_masks(before, after)
    return before != after


def missing_classes(before: Tensor, after: Tensor, present: Tensor, *, share: float = 0.5) -> Tensor:
    """Classes of which a change of masks leaves less than a share.

    The change ratio delta of eq. 3 is N_after / max(N_before, 1), in pixels. The paper prints delta > 0.5; what it
    describes, and its authors' code does, is delta < 0.5. A class that neither mask shows is not missing: in the
    authors' code, where its delta is 0, it is, and its image would be dropped from training.

    Args:
        before: class ids (N, h, w), integers; ids that are no class, 255 for one, are not counted.
        after: the other mask, of the same shape.
        present: the classes an image's tags name, bool (N, C), background first; what stands there for background is
            ignored, as it is never missing.
        share: a class is missing if delta is below.

    Returns:
        bool (N, C).

    Raises:
        DataError: shapes or types are not as above.
    """
    _check_masks(before, after)
    _check_present(present, before)
    classes = present.shape[1]
    was, remains = _pixels(before, classes), _pixels(after, classes)
    missing = present & (was + remains > 0) & (remains / was.clamp(min=1) < share)
    missing[:, BACKGROUND] = False
    return missing


def change_scores(
    before: Tensor,
    after: Tensor,
    logits_before: Tensor,
    logits_after: Tensor,
    present: Tensor,
    *,
    bias: float,
    background_bias: float = 0.0,
    class_bias: float = 1.0,
    share: float = 0.5,
) -> Tensor:
    """w of eq. 2: how much the change from one mask to the other is to be trusted, pixel by pixel.

    w = sigma(d_before) - sigma(d_after) + bias + b(after's class) - b(before's class), where b is `class_bias` for a
    missing class, `background_bias` for background and 0 for the rest. So a lost class is kept where `before` has it,
    and taken where `after` has it. The paper prints d_after - d_before, on which its rule for the refined mask turns
    the sign a second time; this reading in one line is the authors' code.

    Args:
        before: class ids (N, h, w), integers; 255 belongs to no class.
        after: the other mask, of the same shape.
        logits_before: d_before, float (N, h, w): the logit of "the other mask differs here", told from `before`.
        logits_after: the same, told from `after`.
        present: the classes an image's tags name, bool (N, C), background first.
        bias: of the pair, above 0 in favour of `after`; 0.1 and 0.4 in the paper.
        background_bias: in favour of background.
        class_bias: in favour of classes of which less than `share` remains; 0 leaves them to the rest.
        share: see `missing_classes`.

    Returns:
        float32 (N, h, w), without gradient; float64 of logits in float64.

    Raises:
        DataError: shapes or types are not as above.
    """
    for logits in (logits_before, logits_after):
        if not logits.is_floating_point() or logits.shape != before.shape:
            raise DataError(
                f"logits of differences must be floats of the masks' shape {tuple(before.shape)}, not {logits.dtype} "
                f"of shape {tuple(logits.shape)}"
            )
    missing = missing_classes(before, after, present, share=share)
    trust = _predicted(logits_before) - _predicted(logits_after) + bias
    of_class = missing.to(trust.dtype) * class_bias
    of_class[:, BACKGROUND] = background_bias
    return trust + _of_pixels(of_class, after) - _of_pixels(of_class, before)


def refine_pair(
    before: Tensor,
    after: Tensor,
    logits_before: Tensor,
    logits_after: Tensor,
    present: Tensor,
    *,
    bias: float,
    background_bias: float = 0.0,
    class_bias: float = 1.0,
    share: float = 0.5,
) -> Tensor:
    """The refined mask: `after` where w of `change_scores` is 0 or more, `before` elsewhere.

    Where the masks agree it is their label. Arguments and errors are those of `change_scores`.

    Returns:
        class ids (N, h, w), of the type of `before`.
    """
    trust = change_scores(
        before,
        after,
        logits_before,
        logits_after,
        present,
        bias=bias,
        background_bias=background_bias,
        class_bias=class_bias,
        share=share,
    )
    return torch.where(trust >= 0, after.to(before.dtype), before)


def _predicted(logits: Tensor) -> Tensor:
    return logits.detach().to(torch.promote_types(logits.dtype, torch.float32)).sigmoid()


def _pixels(masks: Tensor, classes: int) -> Tensor:
    """Pixels of each class: (N, h, w) -> (N, classes)."""
    ids = torch.arange(classes, device=masks.device)
    return (masks.flatten(1)[:, None] == ids[:, None]).sum(2)


def _of_pixels(of_class: Tensor, masks: Tensor) -> Tensor:
    """Value of each pixel's class, 0 for pixels of no class: (N, C) and (N, h, w) -> (N, h, w)."""
    classes = of_class.shape[1]
    ids = masks.flatten(1).long()
    of_class = torch.cat([of_class, of_class.new_zeros(len(of_class), 1)], dim=1)
    return of_class.gather(1, ids.where((ids >= 0) & (ids < classes), classes)).view(masks.shape)


def _check_masks(before: Tensor, after: Tensor) -> None:
    for masks in (before, after):
        if masks.ndim != 3 or masks.dtype == torch.bool or masks.is_floating_point() or masks.is_complex():
            raise DataError(
                f"masks must be integers of shape (N, h, w), not {masks.dtype} of shape {tuple(masks.shape)}"
            )
    if before.shape != after.shape:
        raise DataError(f"the masks of a pair have shapes {tuple(before.shape)} and {tuple(after.shape)}")


def _check_present(present: Tensor, masks: Tensor) -> None:
    if present.dtype != torch.bool or present.ndim != 2 or len(present) != len(masks) or not present.shape[1]:
        raise DataError(
            f"present must be bool of shape ({len(masks)}, classes), not {present.dtype} of shape "
            f"{tuple(present.shape)}"
        )
