"""The attention loss: what a segmenter has erased from an image a classifier must no longer find in it."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def draw_classes(present: Tensor, generators: Sequence[np.random.Generator], paths: int) -> Tensor:
    """b: the classes to erase, each of an image's present ones with probability 1/2 (Kim 2022, section 2.3.3).

    Args:
        present: bool (N, C), the classes an image's tags name.
        generators: one per image; an image's draws come from its own alone.
        paths: independent draws per image.

    Returns:
        bool (paths, N, C), on the device of `present`.
    """
    drawn = np.stack([generator.random((paths, present.shape[1])) < 0.5 for generator in generators], axis=1)
    return torch.from_numpy(drawn).to(present.device) & present


def attention_map(maps: Tensor, chosen: Tensor) -> Tensor:
    """F = 1 - sum over chosen classes of H_c: what of every pixel stays (Kim 2022, eq. 2.8).

    In the type of the maps, under autocast too.

    Args:
        maps: H, probabilities (N, C + 1, h, w), background first, at any resolution.
        chosen: b, bool (N, C), or (paths, N, C) for several maps of each image.

    Returns:
        in [0, 1], (N, h, w) or (paths, N, h, w).
    """
    # Autocast would take F to half precision, and the sums in the gradient of its interpolation with it.
    with torch.autocast(maps.device.type, enabled=False):
        return 1 - torch.einsum("nchw,...nc->...nhw", maps[:, 1:], chosen.to(maps.dtype))


def mask_image(image: Tensor, attention: Tensor) -> Tensor:
    """I' = F (I - mean colour), F brought to the image first (Kim 2022, eq. 2.9).

    An image is normalised by subtracting a mean colour, so that 0 is that colour and a product with F erases to it.
    ImageNet's is close to the mean of photographs; networks with a mean of 0.5 per channel erase to grey. Interpolation
    is linear: bringing F to the image is the same as bringing every class's map to it, at a fraction of the work.

    Args:
        image: normalised (N, 3, H, W).
        attention: F, (N, h, w) or (paths, N, h, w), of any resolution; its cells tile the image.

    Returns:
        the shape of `attention`'s leading dimensions, then (3, H, W).
    """
    leading = attention.shape[:-2]
    flat = attention.reshape(-1, 1, *attention.shape[-2:])
    size = (image.shape[2], image.shape[3])
    upsampled = F.interpolate(flat, size=size, mode="bilinear", align_corners=False)
    return upsampled.reshape(*leading, 1, *size) * image


def attention_loss(logits: Tensor, present: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy against t' = t (1 - b), mean over an image's present classes (Kim 2022, eq. 2.10).

    Args:
        logits: what the classifier says of the masked images, (N, C), or (paths, N, C).
        present: t, bool (N, C).
        chosen: b, bool, the shape of `logits`.

    Returns:
        (sum over images, N), each image with the mean of its paths. An image without tags adds 0 with zero gradient.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    target = (present & ~chosen).to(logits.dtype)
    value = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * present
    images = value.sum(-1) / present.sum(-1).clamp(min=1)
    total = images.sum() / (logits.numel() / max(present.numel(), 1))
    return total, total.new_full((), len(present))
