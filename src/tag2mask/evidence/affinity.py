"""Affinities of neighbouring pixels from features, and the labels they are learnt from, after AffinityNet (PSA).

Ahn & Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly Supervised Semantic
Segmentation" (CVPR 2018). `tag2mask.refine.random_walk` walks on them.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tag2mask.base.versions import Code
from tag2mask.data.classes import BACKGROUND, UNLABELLED
from tag2mask.data.neighbours import pair_ends, pair_offsets
from tag2mask.errors import DataError

CODE = Code("affinity")

DIFFERENT, FOREGROUND_PAIR, BACKGROUND_PAIR, IGNORED_PAIR = 0, 1, 2, 255
"""Labels that `pair_labels` gives a pair: two classes, one foreground class, background twice, or nothing."""


def pair_affinities(features: Tensor, radius: int) -> Tensor:
    """Affinity of each pixel with its neighbours: W_ij = exp(-mean_k |f_ik - f_jk|) (Ahn & Kwak, eq. 3).

    The published page writes the L1 distance; the mean over channels is what its code does. Gradients go to the
    features. Neither pass keeps the differences of all offsets: memory beyond inputs and result is about twice that of
    the features.

    Args:
        features: floats (..., K, H, W), K at least 1, on any device.
        radius: neighbours are closer than this (`pair_offsets`).

    Returns:
        affinities of pixel u and u + offset, in [0, 1], (..., offsets, H, W) in the order of `pair_offsets`; 0 where
        u + offset lies outside, and where a distance is so large that the exponential rounds to 0 (above some 104 in
        float32). NaN in a feature makes the pixel's own pairs NaN and no others. Half precision becomes float32.

    Raises:
        DataError: features of another shape or type.
        SettingsError: radius is below 1.
    """
    if features.ndim < 3 or not features.is_floating_point() or features.shape[-3] == 0:
        raise DataError(
            f"features must be floats of shape (..., K, H, W), not {features.dtype} of shape {tuple(features.shape)}"
        )
    exact = features if features.dtype == torch.float64 else features.float()
    affinities: Tensor = _PairAffinities.apply(exact, pair_offsets(radius))
    return affinities


def confident_labels(amplified: Tensor, suppressed: Tensor) -> Tensor:
    """Labels that hold whether background is made strong or weak (Ahn & Kwak, CVPR 2018).

    Foreground class c where the map with amplified background still says c, background where the map with suppressed
    background still says background, nothing between. Both can hold in a pixel, as the two maps go through the CRF one
    by one: background wins there, as in the published code.

    Args:
        amplified: class ids (..., h, w) of the largest score where background is amplified (the low alpha).
        suppressed: the same where background is suppressed (the high alpha).

    Returns:
        uint8 (..., h, w), 255 where neither is sure.
    """
    foreground = torch.where(amplified == BACKGROUND, UNLABELLED, amplified)
    return torch.where(suppressed == BACKGROUND, BACKGROUND, foreground).to(torch.uint8)


def pair_labels(labels: Tensor, radius: int) -> Tensor:
    """Labels of each pair of pixels closer than a radius, from confident labels (Ahn & Kwak, CVPR 2018).

    Args:
        labels: class ids (..., h, w), 255 unlabelled, on any device.
        radius: as for `pair_affinities`.

    Returns:
        uint8 (..., offsets, h, w) of pixel u and u + offset in the order of `pair_offsets`: `FOREGROUND_PAIR` and
        `BACKGROUND_PAIR` where both have the same label, `DIFFERENT` where they have two, `IGNORED_PAIR` where one is
        unlabelled or u + offset lies outside.

    Raises:
        SettingsError: radius is below 1.
    """
    offsets = pair_offsets(radius)
    *batch, height, width = labels.shape
    pairs = torch.full((*batch, len(offsets), height, width), IGNORED_PAIR, dtype=torch.uint8, device=labels.device)
    for index, offset in enumerate(offsets):
        here, there = pair_ends(height, width, offset)
        one, other = labels[..., *here], labels[..., *there]
        same = torch.where(one == BACKGROUND, BACKGROUND_PAIR, FOREGROUND_PAIR)
        known = (one != UNLABELLED) & (other != UNLABELLED)
        pairs[..., index, *here] = torch.where(known, torch.where(one == other, same, DIFFERENT), IGNORED_PAIR).byte()
    return pairs


class _PairAffinities(torch.autograd.Function):
    """`pair_affinities` with differences computed again in the backward pass instead of kept."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, offsets: tuple[tuple[int, int], ...]) -> Tensor:
        *batch, _, height, width = features.shape
        affinities = features.new_zeros((*batch, len(offsets), height, width))
        for index, offset in enumerate(offsets):
            here, there = pair_ends(height, width, offset)
            distance = (features[..., *here] - features[..., *there]).abs_().mean(-3)
            affinities[..., index, *here] = distance.neg_().exp_()
        ctx.save_for_backward(features, affinities)
        ctx.offsets = offsets
        return affinities

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        features, affinities = ctx.saved_tensors
        channels, height, width = features.shape[-3:]
        slopes = gradient * affinities / -channels  # of the sum over channels of absolute differences
        result = torch.zeros_like(features)
        for index, offset in enumerate(ctx.offsets):
            here, there = pair_ends(height, width, offset)
            sign = (features[..., *here] - features[..., *there]).sign_()
            slope = slopes[..., index, *here].unsqueeze(-3)
            result[..., *here].addcmul_(sign, slope)
            result[..., *there].addcmul_(sign, slope, value=-1)
        return result, None
