"""The adaptive affinity loss of AALR: neighbours of one label are drawn together, those of two labels apart."""

from typing import Literal, get_args

import torch
from torch import Tensor

from tag2mask.data.classes import BACKGROUND, UNLABELLED
from tag2mask.data.neighbours import pair_ends
from tag2mask.errors import DataError, SettingsError, unknown_choice

Groups = Literal["four", "published"]

LEAST_PROBABILITY = 1e-4
"""P and 1 - P are clipped here, each by itself."""

DIFFERENT_WEIGHT = 2.0
"""Of the pairs of two labels; their sums hold it already."""


def adaptive_affinity_loss(
    probabilities: Tensor,
    labels: Tensor,
    confidence: Tensor,
    *,
    distance: int = 4,
    margin: float = 3.0,
    groups: Groups = "four",
) -> dict[str, tuple[Tensor, Tensor]]:
    """Adaptive affinity loss (Zhang et al., AALR, ACM MM 2021; the formula of the file its authors published).

    A confidence-weighted form of adaptive affinity fields (Ke et al., ECCV 2018). For each pixel u and its eight
    neighbours v at `distance` in the eight directions,

        D_uv = sum_c [P_vc log(P_vc / P_uc) + (1 - P_vc) log((1 - P_vc) / (1 - P_uc))],

    P and 1 - P each clipped to [1e-4, 1]; what is clipped has no gradient, all else sends it to both ends. With
    r_uv = max(r_u, r_v), a constant, a pair of one label costs r_uv D_uv and a pair of two labels
    2 max(0, margin r_uv - D_uv). D is not symmetric, so that both orders of a pair count. Pairs that leave the map or
    touch an unlabelled pixel are left out.

    **[resolved]** The published file masks the group of two objects with the wrong map, so that what it really computes
    is one mean over all pairs of two labels. The four groups are its evident intent; "published" is its behaviour.
    It also returns 0 where there is a single group of one label and no edge; this function does not.

    Args:
        probabilities: P, the softmax over all classes, (N, C, h, w); half precision is worked on in float32.
        labels: class ids (N, h, w) below C, 255 unlabelled.
        confidence: r, how sure each label is, (N, h, w); not read where unlabelled.
        distance: from a pixel to its neighbours along rows and columns, in pixels of the map, 1 or more.
        margin: largest divergence that a pair of two labels is still pushed beyond, per unit of confidence.
        groups: "four" or "published".

    Returns:
        (sum, number of ordered pairs) of "same_background" (background twice), "same_object" (one object class),
        "different_objects" and "different_background" (an object and background), or, where published, of the first
        two and "different". The loss is the sum of their means. A mean is over the pairs of the whole batch, so that
        an image with few pairs counts little. Sums are float32 or finer; a group without pairs is 0 with zero gradient.

    Raises:
        DataError: the shapes do not fit together.
        SettingsError: distance is below 1, or groups is unknown.
    """
    if probabilities.ndim != 4 or not labels.shape == confidence.shape == _map_shape(probabilities):
        raise DataError(
            f"probabilities {tuple(probabilities.shape)}, labels {tuple(labels.shape)} and confidence "
            f"{tuple(confidence.shape)} must be (N, C, h, w), (N, h, w) and (N, h, w)"
        )
    if distance < 1:
        raise SettingsError(f"distance must be 1 or more, not {distance}")
    if groups not in get_args(Groups):
        raise SettingsError(unknown_choice("groups", groups, get_args(Groups)))
    p = probabilities.to(torch.promote_types(probabilities.dtype, torch.float32))
    # P and 1 - P as channels of one distribution: D_uv = (sum_k p_vk log p_vk) - (sum_k p_vk log p_uk).
    p = torch.cat([p, 1 - p], 1).clamp(LEAST_PROBABILITY, 1)
    log_p = p.log()
    own = (p * log_p).sum(1)
    r = confidence.detach().to(p.dtype).masked_fill(labels == UNLABELLED, 0)

    height, width = labels.shape[1:]
    apart = ("different_objects", "different_background") if groups == "four" else ("different",)
    sums = {name: p.new_zeros(()) for name in ("same_background", "same_object", *apart)}
    counts = {name: p.new_zeros(()) for name in sums}
    for offset in ((0, distance), (distance, 0), (distance, distance), (distance, -distance)):
        here, there = pair_ends(height, width, offset)
        one, other = labels[:, *here], labels[:, *there]
        known = (one != UNLABELLED) & (other != UNLABELLED)
        same, background = known & (one == other), (one == BACKGROUND) | (other == BACKGROUND)
        differs = known & (one != other)
        kinds = {"same_background": same & background, "same_object": same & ~background}
        kinds |= (
            {"different_objects": differs & ~background, "different_background": differs & background}
            if groups == "four"
            else {"different": differs}
        )
        r_pair = torch.maximum(r[:, *here], r[:, *there])
        for u, v in ((here, there), (there, here)):
            divergence = own[:, *v] - (p[:, :, *v] * log_p[:, :, *u]).sum(1)
            cost = torch.where(same, r_pair * divergence, DIFFERENT_WEIGHT * (margin * r_pair - divergence).relu())
            for name, pairs in kinds.items():
                sums[name] = sums[name] + (cost * pairs).sum()
                counts[name] = counts[name] + pairs.sum()
    return {name: (value, counts[name]) for name, value in sums.items()}


def _map_shape(probabilities: Tensor) -> torch.Size:
    return torch.Size((len(probabilities), *probabilities.shape[2:]))
