"""Class activation maps: where in an image a tagged class is."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from tag2mask.base.versions import Code
from tag2mask.data.classes import BACKGROUND, UNLABELLED
from tag2mask.data.resizing import resize_scores

CODE = Code("CAM")

Rule = Literal["sum", "max"]


def merge_score_maps(maps: Sequence[Tensor], size: tuple[int, int], rule: Rule = "sum") -> Tensor:
    """CAMs from the score maps of several scales.

    Every map goes through ReLU, is resized to one common size, summed over scales and mirror images (PSA, IRN) or their
    maximum taken (Kim eq. 2.4), and divided by its own maximum per class (Kim eq. 1.11).

    Args:
        maps: one tensor per scale, (1 or 2, C, h, w): scores of the image and, mirrored, of its mirror image.
        size: the common size.
        rule: "sum" or "max".

    Returns:
        float32 (C, *size) in [0, 1]; all zero for a class whose scores are nowhere positive.
    """
    merged: Tensor | None = None
    for scores in maps:
        positive = scores.float().relu()
        if len(positive) == 2:
            positive = torch.stack([positive[0], positive[1].flip(-1)])
        resized = resize_scores(positive, size)
        one = resized.sum(0) if rule == "sum" else resized.amax(0)
        join = torch.add if rule == "sum" else torch.maximum
        merged = one if merged is None else join(merged, one)
    if merged is None:
        raise ValueError("merge_score_maps needs at least one scale")
    return by_maximum(merged)


def by_maximum(maps: Tensor) -> Tensor:
    """Maps divided by their own maxima (Kim eq. 1.11).

    Args:
        maps: floats (..., h, w), not negative.

    Returns:
        (..., h, w) in [0, 1]; all zero where a map is nowhere positive.
    """
    peak = maps.amax((-2, -1), keepdim=True)
    return torch.where(peak > 0, maps / peak.clamp(min=torch.finfo(peak.dtype).tiny), torch.zeros_like(maps))


def cam_labels(
    cams: Tensor, class_ids: Sequence[int], *, foreground_threshold: float, background_threshold: float
) -> Tensor:
    """Pseudo-labels from CAMs by thresholds (Kim eq. 1.12 and 1.13).

    A pixel takes the class of the largest CAM where that is above `foreground_threshold`, background where it is not
    above `background_threshold`, and stays unlabelled between. With equal thresholds every pixel is labelled (PSA 0.2,
    IRN 0.15). Without any class everything is background.

    Args:
        cams: (P, H, W) in [0, 1], the present classes' maps.
        class_ids: their class ids, from 1 up.
        foreground_threshold: above it, foreground.
        background_threshold: below it, background; not above the other.

    Returns:
        uint8 (H, W).
    """
    if background_threshold > foreground_threshold:
        raise ValueError(f"background_threshold {background_threshold} is above {foreground_threshold}")
    if not len(class_ids):
        return torch.full(cams.shape[-2:], BACKGROUND, dtype=torch.uint8)
    best, index = cams.max(0)
    labels = torch.tensor(class_ids, dtype=torch.uint8)[index]
    labels[best <= foreground_threshold] = UNLABELLED
    labels[best <= background_threshold] = BACKGROUND
    return labels


def background_power(cams: Tensor, alpha: float) -> Tensor:
    """Background as the power map (1 - max_c CAM_c)^alpha (PSA).

    Shapes: (P, H, W) -> (H, W); all ones without any class.
    """
    if not len(cams):
        return torch.ones(cams.shape[-2:])
    background: Tensor = (1 - cams.amax(0)).clamp(min=0) ** alpha
    return background


def with_background_power(cams: Tensor, alpha: float) -> Tensor:
    """The background power map in front of the CAMs it is made of (PSA).

    Shapes: (P, H, W) -> (1 + P, H, W), not normalised.
    """
    return torch.cat([background_power(cams, alpha)[None], cams])
