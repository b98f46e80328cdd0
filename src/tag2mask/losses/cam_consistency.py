"""The CAM loss: a classifier's standard block learns from what dilated blocks find outside the object's core."""

import torch
from torch import Tensor


def cam_consistency_loss(maps: Tensor, dilated: Tensor, tags: Tensor) -> tuple[Tensor, Tensor]:
    """Squared difference between the dense CAM and the standard block's (Kim, dissertation 2022, eq. 2.2).

    The dense CAM is M = max(M^0, mean_i M^i), element by element, and the loss of an image
    1 / (C |S|) sum_{u in S} sum_{c present} (relu(M_uc) - relu(M^0_uc))^2, C being all foreground classes.
    M is the target: no gradient goes through it, neither to the dilated blocks nor to M^0 **[resolved]**. Every
    position counts, those of padding too: the text does not leave any out.

    Args:
        maps: score maps M^0 of the standard block before ReLU, (N, C, h, w).
        dilated: those of the D dilated blocks, (D, N, C, h, w), D at least 1.
        tags: 1 for tagged classes, else 0; (N, C).

    Returns:
        (sum, N * C * h * w) in float32; the sum is 0, with zero gradient, where no image has a tag.
    """
    standard = maps.float()
    dense = torch.maximum(standard, dilated.float().mean(0)).detach()
    squares = (dense.relu() - standard.relu()).square()
    total = (squares * tags.to(squares)[:, :, None, None]).sum()
    return total, total.new_tensor(maps.numel())
