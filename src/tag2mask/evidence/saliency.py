"""Saliency held against class activation maps: what a detector missed, and what it should have left alone."""

from typing import Literal

from torch import Tensor

from tag2mask.data.classes import BACKGROUND, UNLABELLED

OBJECT = 1
"""Pixels of any object in a label map that knows no classes."""

Low = Literal["unlabelled", "background", "keep"]


def refine_saliency(
    cam: Tensor,
    salient: Tensor,
    *,
    foreground_above: float = 0.8,
    background_below: float = 0.3,
    low: Low = "unlabelled",
) -> Tensor:
    """Saliency refined by class activation maps (Kim, dissertation 2022, eq. 2.6).

    A pixel that is not salient becomes object where B > tau_1; a salient one where B < tau_2 becomes unlabelled, since
    a low CAM may be an object's outer part; all others stay what they are, those at a threshold too.

    Args:
        cam: B in [0, 1], the largest of the present classes' CAMs (eq. 2.5), (h, w).
        salient: O, bool (h, w).
        foreground_above: tau_1.
        background_below: tau_2.
        low: what salient pixels below tau_2 become: "unlabelled"; "background" (table 2.5, row 2, which is worse);
            "keep" leaves them salient.

    Returns:
        uint8 (h, w): 0 background, 1 object, 255 unlabelled.

    Raises:
        ValueError: the shapes differ.
    """
    if cam.shape != salient.shape:
        raise ValueError(f"a CAM of shape {tuple(cam.shape)} and saliency of shape {tuple(salient.shape)}")
    refined = salient.byte() * OBJECT
    refined[~salient & (cam > foreground_above)] = OBJECT
    if low != "keep":
        refined[salient & (cam < background_below)] = UNLABELLED if low == "unlabelled" else BACKGROUND
    return refined
