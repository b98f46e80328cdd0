"""Superpixels of semantically similar pixels, discovered in the features of a self-supervised transformer.

Kim, "A Study on Weakly Supervised Semantic Segmentation Using Image Masking and Clustering" (dissertation, Seoul
National University, 2022), section 3.3.1 and table 3.1. The features there are the keys of all heads of the last
self-attention layer, one vector per patch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from tag2mask.errors import DataError, SettingsError
from tag2mask.evidence._superpixel import SimilarityBits

_BLOCK_ROWS = 128  # rows of one product on a CPU: few enough to stay in the cache until they are bits
_ROUNDS_PER_CHECK = 16  # rounds on an accelerator between two questions whether pixels remain

# The switches of precision belong to the whole process: the first thread that needs one sets it, the last restores it.
_SWITCHES = Lock()
_HELD: dict[str, tuple[int, str]] = {}  # by switch: how many need it now, and what it was before


@torch.no_grad()
def discover_superpixels(features: Tensor, threshold: float, *, highest_first: bool = False) -> Tensor:
    """Partition pixels into superpixels by the similarity of their features (Kim, table 3.1).

    With the cosine similarities A and B = [A > 0], as long as pixels remain: the degree of a remaining pixel is the
    number of remaining pixels q with B_pq = 1; the seed is the pixel with the lowest degree, the one with the lowest
    index among equals; the remaining pixels whose similarity to the seed exceeds the threshold are the next superpixel.
    Superpixels need not be connected and their number follows from the image.

    Similarities are float32 whatever the type of the features, under autocast and with TF32 allowed too; while calls
    run, in any threads, torch's switch of precision for the device is at full precision. A pixel always
    counts as similar to itself, a zero vector to nothing else. On a CPU the similarity of p < q is entry (p, q) of a
    product of row blocks and holds both ways; nothing of size (N, N) but two matrices of bits is kept, N² / 4 bytes.
    Elsewhere the whole product is used, 9 N² bytes and more per image, all images of a batch go in step and the host
    asks every 16 rounds whether to go on. Two pixels whose similarity is 0 or the threshold up to rounding can thus
    come out differently on two devices.

    Keys of DINOv2 need their bias subtracted first: it is as long as the keys themselves, makes all similarities
    positive and cannot change what the network attends to.

    Args:
        features: floats of shape (N, d), or (B, N, d) for a batch, on any device, finite; their lengths (0 or 1e-18 to
            1e18, so that float32 holds the squares) do not matter. Gradients are not followed.
        threshold: tau, at least 0 and below 1.
        highest_first: take the pixel with the highest degree as seed instead (Kim, figure 3.11).

    Returns:
        int32 of shape (N,) or (B, N) on the same device: superpixels from 0, in order of discovery.

    Raises:
        DataError: features of another type or shape, or features (or their lengths, in float32) that are not finite.
        SettingsError: the threshold is out of its range.

    Example:
        >>> keys = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.1], [0.0, 1.0], [-1.0, 0.0]])
        >>> discover_superpixels(keys, 0.3)
        tensor([1, 2, 1, 2, 0], dtype=torch.int32)
    """
    if not 0 <= threshold < 1:
        raise SettingsError(f"threshold must be at least 0 and below 1, not {threshold}")
    if features.ndim not in (2, 3) or not features.is_floating_point() or features.shape[-1] == 0:
        raise DataError(
            f"features must be floats of shape (N, d) or (B, N, d), d at least 1, not {features.dtype} of shape "
            f"{tuple(features.shape)}"
        )
    images = features if features.ndim == 3 else features[None]
    with _float32_products(features.device):
        normalised = _normalised(images)
        if features.device.type == "cpu":
            labels = torch.empty(images.shape[:2], dtype=torch.int32)
            for image, its_labels in zip(normalised, labels, strict=True):
                bits = SimilarityBits(len(image), threshold)
                for block in _upper_triangle(image):
                    bits.add_rows(block.numpy())
                bits.partition(its_labels.numpy(), highest_first)
        else:
            labels = _discover_together(normalised @ normalised.mT, threshold, highest_first)
    return labels if features.ndim == 3 else labels[0]


@contextmanager
def _float32_products(device: torch.device) -> Iterator[None]:
    """Matrix products of float32 in float32 on this device, whatever autocast and switches of precision say."""
    backend = "cuda" if device.type == "cuda" else "mkldnn"
    products: Any = getattr(getattr(torch.backends, backend), "matmul", None)
    per_device = hasattr(products, "fp32_precision")  # a switch that torch has from 2.9 on
    switch = backend if per_device else "all"
    with _SWITCHES:
        users, previous = _HELD.get(switch, (0, ""))
        if users == 0:
            previous = products.fp32_precision if per_device else torch.get_float32_matmul_precision()
            if per_device:
                products.fp32_precision = "ieee"
            else:
                torch.set_float32_matmul_precision("highest")
        _HELD[switch] = users + 1, previous
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        with _SWITCHES:
            users, previous = _HELD.pop(switch)
            if users > 1:
                _HELD[switch] = users - 1, previous
            elif per_device:
                products.fp32_precision = previous
            else:
                torch.set_float32_matmul_precision(previous)


def _normalised(features: Tensor) -> Tensor:
    """float32 features of length 1, zero vectors of length 0."""
    features = features.float()
    lengths = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    if not lengths.isfinite().all():
        raise DataError("features must be finite, lengths of vectors too; found NaN, infinity or larger values")
    return features / torch.where(lengths > 0, lengths, 1)


def _upper_triangle(normalised: Tensor) -> Iterator[Tensor]:
    """Rows of A without the columns before the block's first row: (rows, N), (rows, N - rows) ..., one memory for all.

    A whole product would compute every similarity twice and write far more than caches hold.
    """
    memory = normalised.new_empty(min(_BLOCK_ROWS, len(normalised)) * len(normalised))
    for start in range(0, len(normalised), _BLOCK_ROWS):
        rows, rest = normalised[start : start + _BLOCK_ROWS], normalised[start:]
        yield torch.mm(rows, rest.T, out=memory[: len(rows) * len(rest)].view(len(rows), len(rest)))


def _discover_together(similarities: Tensor, threshold: float, highest_first: bool) -> Tensor:
    """Table 3.1 for all images of a batch at once, in tensor operations alone.

    Images without remaining pixels take part in further rounds without effect.

    Args:
        similarities: float32 (B, N, N); the diagonal is overwritten.
        threshold: tau.
        highest_first: take the pixel with the highest degree as seed.

    Returns:
        int32 (B, N).
    """
    images, pixels, _ = similarities.shape
    similarities.diagonal(dim1=1, dim2=2).fill_(1)
    positive = (similarities > 0).float()
    sign = -1 if highest_first else 1
    degrees = sign * positive.sum(2)  # whole numbers, exact in float32
    remaining = torch.ones_like(degrees, dtype=torch.bool)
    labels = torch.zeros_like(degrees, dtype=torch.int32)
    image = torch.arange(images, device=similarities.device)
    for label in range(pixels):
        if label % _ROUNDS_PER_CHECK == 0 and not remaining.any():
            break
        seeds = degrees.masked_fill(~remaining, torch.inf).argmin(1)
        found = (similarities[image, seeds] > threshold) & remaining
        labels.masked_fill_(found, label)
        remaining &= ~found
        degrees -= sign * torch.bmm(positive, found.float()[..., None])[..., 0]
    return labels
