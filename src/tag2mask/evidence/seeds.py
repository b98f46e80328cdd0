"""Seeds: the few pixels of an image whose class is thought to be known, from CAMs, saliency and superpixels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tag2mask.base.versions import Code
from tag2mask.data.classes import BACKGROUND, UNLABELLED
from tag2mask.errors import DataError

CODE = Code("sparse seeds")


def claimed_labels(cams: Tensor, class_ids: Sequence[int], threshold: float) -> Tensor:
    """Foreground seeds: every class claims the pixels where its CAM is above a share of its maximum.

    Where several classes claim a pixel, the one whose claimed area in this image is the smallest gets it, the
    lowest class id among equals (Kolesnikov & Lampert, "Seed, Expand and Constrain", ECCV 2016, section 3.2; Huang et
    al., DSRG, CVPR 2018).

    Args:
        cams: (P, H, W) in [0, 1], each class's maximum 1; the present classes' maps.
        class_ids: their class ids, from 1 up.
        threshold: above it a pixel is claimed; both papers take 0.2.

    Returns:
        uint8 (H, W), 255 where no class claims; all 255 without any class.

    Raises:
        DataError: class ids and maps differ in number.
    """
    _check_classes(cams, class_ids)
    if not len(class_ids):
        return torch.full(cams.shape[-2:], UNLABELLED, dtype=torch.uint8, device=cams.device)
    claims = cams > threshold
    areas = claims.sum((1, 2)).tolist()
    order = sorted(range(len(class_ids)), key=lambda i: (areas[i], class_ids[i]))
    claims = claims[order]
    # The first class in order of area that claims the pixel.
    return _labels(claims.byte().argmax(0), [class_ids[i] for i in order]).masked_fill(~claims.any(0), UNLABELLED)


def add_background(
    labels: Tensor, evidence: Tensor, *, below: float | None = None, share: float | None = None
) -> Tensor:
    """Background seeds: unlabelled pixels with the least evidence of any object.

    Either where the evidence is below a value (DSRG: saliency below 0.06), or where it is among the lowest of the
    whole image, labelled pixels included (SEC: the lowest 10 %). All pixels whose evidence equals that of the last
    one within the share are taken too: evidence alone decides, never a pixel's place. Where the evidence is the same
    everywhere this is every unlabelled pixel.

    Args:
        labels: class ids (H, W), 255 unlabelled.
        evidence: saliency or the like, (H, W), high on objects.
        below: evidence below it is background.
        share: this share of the pixels, 0..1, rounded to whole pixels; 0 adds none.

    Returns:
        Labels of the type and device of `labels`; those that were labelled are unchanged.

    Raises:
        DataError: the shapes differ.
        ValueError: both or none of `below` and `share` are given, or `share` is outside 0..1.
    """
    if labels.shape != evidence.shape or labels.ndim != 2:
        raise DataError(
            f"labels and evidence must have one shape (H, W), not {tuple(labels.shape)} and {tuple(evidence.shape)}"
        )
    if (below is None) == (share is None):
        raise ValueError("add_background takes either below or share")
    if below is not None:
        background = evidence < below
    else:
        assert share is not None
        if not 0 <= share <= 1:
            raise ValueError(f"share must lie between 0 and 1, not {share}")
        pixels = round(share * evidence.numel())
        if pixels == 0:
            return labels.clone()
        background = evidence <= evidence.flatten().kthvalue(pixels).values
    return labels.masked_fill(background & (labels == UNLABELLED), BACKGROUND)


def superpixel_seeds(
    cams: Tensor, class_ids: Sequence[int], superpixels: Tensor, alpha: float, *, background: bool = True
) -> Tensor:
    """Seeds whose background is the superpixel least like any object (Kim 2022, section 3.3.2, eq. 3.4 and 3.5).

    A pixel takes the class of the largest CAM (the first among equals) where that is above `alpha`. Of the superpixels,
    the one with the lowest mean of max_c CAM_c (the lowest id among equals) is background; where it meets foreground,
    foreground stays. The dissertation does not treat images without tags; here they are background everywhere, as
    in `tag2mask.evidence.cam.cam_labels`.

    Args:
        cams: (P, H, W) in [0, 1], the present classes' maps.
        class_ids: their class ids, from 1 up.
        superpixels: ids from 0, integers (H, W); ids may be missing.
        alpha: above it, foreground; 0.5 in the paper.
        background: False gives foreground seeds alone, for another rule to add background; none without any class.

    Returns:
        uint8 (H, W), 255 unlabelled.

    Raises:
        DataError: class ids and maps differ in number, the maps in size, or an id is negative.
    """
    _check_classes(cams, class_ids)
    superpixels = _as_int64(superpixels, cams)
    if not len(class_ids):
        everywhere = BACKGROUND if background else UNLABELLED
        return torch.full(cams.shape[-2:], everywhere, dtype=torch.uint8, device=cams.device)
    index = cams.argmax(0)
    best = cams.gather(0, index[None])
    labels = _labels(index, class_ids).masked_fill(best[0] <= alpha, UNLABELLED)
    if not background:
        return labels
    least = _means(best, superpixels)[0].nan_to_num(nan=torch.inf).argmin()  # no mean where an id is missing
    return labels.masked_fill((labels == UNLABELLED) & (superpixels == least), BACKGROUND)


def superpixel_average(cams: Tensor, superpixels: Tensor) -> Tensor:
    """CAMs averaged over superpixels: every pixel takes its superpixel's mean, class by class.

    Args:
        cams: (P, H, W).
        superpixels: ids from 0, integers (H, W); ids may be missing.

    Returns:
        float32 (P, H, W).

    Raises:
        DataError: the maps differ in size, or an id is negative.
    """
    superpixels = _as_int64(superpixels, cams)
    return _means(cams, superpixels)[:, superpixels].float()


def _check_classes(cams: Tensor, class_ids: Sequence[int]) -> None:
    if cams.ndim != 3 or len(cams) != len(class_ids):
        raise DataError(f"CAMs must have shape (P, H, W) with P = {len(class_ids)} classes, not {tuple(cams.shape)}")


def _as_int64(superpixels: Tensor, cams: Tensor) -> Tensor:
    """Superpixels that fit the CAMs, as int64: torch computes little with uint16."""
    if cams.ndim != 3 or cams.shape[1:] != superpixels.shape:
        raise DataError(
            f"CAMs must have shape (P, H, W) and superpixels (H, W), not {tuple(cams.shape)} and "
            f"{tuple(superpixels.shape)}"
        )
    ids = superpixels.long()
    if bool((ids < 0).any()):
        raise DataError("superpixels must have ids from 0; found a negative one")
    return ids


def _labels(index: Tensor, class_ids: Sequence[int]) -> Tensor:
    """Class ids, uint8, of positions in the list of them."""
    return torch.tensor(class_ids, dtype=torch.uint8, device=index.device)[index]


def _means(values: Tensor, superpixels: Tensor) -> Tensor:
    """Means over superpixels, float64 (P, number of superpixels); NaN where an id is missing.

    In float64, so that means of equal values are equal whatever the superpixel's size.
    """
    member = superpixels.flatten()
    sizes = member.bincount()
    sums = values.new_zeros((len(values), len(sizes)), dtype=torch.float64)
    return sums.index_add_(1, member, values.flatten(1).double()) / sizes
