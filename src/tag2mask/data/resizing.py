"""Maps and features at other sizes, on grids whose cells tile the image."""

import torch.nn.functional as F
from torch import Tensor

from tag2mask.base.versions import Code

CODE = Code("resizing")


def resize_scores(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resizing of maps whose cells tile the image (align_corners False).

    Shapes: (N, C, h, w) -> (N, C, *size).
    """
    return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)


def to_grid(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Features on a grid of another size: averaged over its cells where it is coarser, bilinear where it is finer.

    Shapes: (N, C, h, w) -> (N, C, *size).
    """
    if features.shape[2] >= size[0] and features.shape[3] >= size[1]:
        return F.adaptive_avg_pool2d(features, size)
    return resize_scores(features, size)
