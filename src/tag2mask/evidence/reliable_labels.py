"""Pseudo-labels of RRM's single stage: of two CRFs' labels, only the pixels that CAMs and CRFs are sure of.

Zhang et al., "Reliability Does Matter: An End-to-End Weakly Supervised Semantic Segmentation Approach" (AAAI 2020).
"""

import torch
from torch import Tensor

from tag2mask.base.versions import Code
from tag2mask.data.classes import BACKGROUND, UNLABELLED
from tag2mask.errors import DataError, SettingsError
from tag2mask.evidence.affinity import confident_labels

CODE = Code("reliable labels")


def online_labels(low: Tensor, high: Tensor) -> Tensor:
    """Labels that CRFs with strong and with weak background both allow (RRM; the rule of `confident_labels`).

    Class c where the CRF with the low alpha (4), whose background is strong, says c; background where the one with the
    high alpha (32) says background, also where the two clash.

    Args:
        low: probabilities (N, C + 1, h, w) of the CRF whose background is (1 - max CAM)^4.
        high: those of (1 - max CAM)^32.

    Returns:
        uint8 (N, h, w), 255 between.
    """
    return confident_labels(low.argmax(1), high.argmax(1))


def reliable_labels(
    cams: Tensor,
    power: Tensor,
    low: Tensor,
    high: Tensor,
    present: Tensor,
    inside: Tensor,
    *,
    share: float = 0.4,
    cam_above: float = 0.1,
    background_above: float = 0.8,
    probability_above: float = 0.8,
) -> tuple[Tensor, Tensor]:
    """The pixels of `online_labels` that are reliable by their CAM and by their CRF (RRM).

    (a) By the largest of the power map and the CAMs: where it is a present class's CAM and above `cam_above`, the
    highest `share` of these pixels per class and image; where it is the power map, if that is above
    `background_above`. (b) By the larger of the background's probability in `high` and the largest foreground
    probability in `low`, which is at least `probability_above`.

    **[resolved]** (a) and (b) choose pixels, not labels: a kept pixel has the CRFs' label, whether or not the largest
    CAM there is of the same class. The number of a class's pixels is rounded to whole pixels, at least one; pixels
    whose CAM equals the last one's are kept too, so that evidence alone decides, never a pixel's place.

    Args:
        cams: (N, C, h, w) in [0, 1], each class's maximum 1, absent classes 0.
        power: (1 - max CAM)^alpha of the high alpha, (N, h, w).
        low: probabilities (N, C + 1, h, w) of the CRF with the low alpha.
        high: those with the high alpha.
        present: classes of each image, bool (N, C + 1), background first.
        inside: where there is a photograph, bool (N, h, w); nothing else gets a label.
        share: above 0, at most 1.
        cam_above: a CAM must be above it.
        background_above: the power map must be above it.
        probability_above: the CRF's probability must reach it.

    Returns:
        labels, uint8 (N, h, w), 255 where not reliable, and their confidence, float32 (N, h, w): the probability of
        (b), 0 where not reliable.

    Raises:
        DataError: the shapes do not fit together.
        SettingsError: share is outside its range.
    """
    images, classes, *size = cams.shape
    maps, channels = (images, *size), (images, classes + 1, *size)
    if (
        any(tuple(x.shape) != maps for x in (power, inside))
        or any(tuple(x.shape) != channels for x in (low, high))
        or tuple(present.shape) != channels[:2]
    ):
        shapes = ", ".join(str(tuple(x.shape)) for x in (power, low, high, present, inside))
        raise DataError(
            f"power, low, high, present and inside of shapes {shapes} do not fit cams of shape {tuple(cams.shape)}"
        )
    if not 0 < share <= 1:
        raise SettingsError(f"share must be above 0 and at most 1, not {share}")
    value, best = torch.cat([power[:, None], cams], 1).float().max(1)
    background = (best == BACKGROUND) & (value > background_above)
    candidates = (best != BACKGROUND) & (value > cam_above) & present.flatten(1).gather(1, best.flatten(1)).view(maps)
    sure = background | _highest(value, best, candidates & inside, share, classes)
    probability = torch.maximum(high[:, BACKGROUND], low[:, BACKGROUND + 1 :].amax(1)).float()
    labels = online_labels(low, high)
    labels = labels.masked_fill(~(sure & inside & (probability >= probability_above)), UNLABELLED)
    return labels, probability.masked_fill(labels == UNLABELLED, 0)


def _highest(value: Tensor, best: Tensor, candidates: Tensor, share: float, classes: int) -> Tensor:
    """Candidates with the highest `share` of values of their class and image, bool (N, h, w)."""
    images = torch.arange(len(value), device=value.device)[:, None, None]
    groups = len(value) * (classes + 1)
    # What is no candidate is a group of its own, the last one.
    group = (images * (classes + 1) + best).where(candidates, groups).flatten()
    values = value.flatten()
    falling, order = values.sort(descending=True)
    # Stable: within a group the values keep falling.
    by_group = group[order].sort(stable=True).indices
    sizes = torch.zeros(groups + 1, dtype=torch.long, device=value.device).scatter_add_(
        0, group, torch.ones_like(group)
    )
    kept = (sizes * share).round().long().clamp(min=1)
    last = (sizes.cumsum(0) - sizes + kept - 1).clamp(max=len(values) - 1)  # an empty group at the end begins beyond
    least = falling[by_group][last]
    return candidates & (values >= least[group]).view(value.shape)
