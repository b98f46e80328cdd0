"""Superpixels of semantically similar pixels, discovered in the features of a self-supervised transformer.

Kim, "A Study on Weakly Supervised Semantic Segmentation Using Image Masking and Clustering" (dissertation, Seoul
National University, 2022), section 3.3.1 and table 3.1. The features there are the keys of all heads of the last
self-attention layer, one vector per patch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from tag2mask.base.versions import Code
from tag2mask.errors import DataError, SettingsError
from tag2mask.evidence._superpixel import SimilarityBits
from tag2mask.refine.dense_crf import dense_crf

CODE = Code("superpixel discovery")

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


def label_superpixels(
    image: npt.NDArray[np.uint8],
    patches: npt.NDArray[np.integer[Any]],
    *,
    covered: tuple[float, float] | None = None,
    confidence: float = 0.7,
    iterations: int = 20,
    gaussian_sxy: float = 10.0,
    gaussian_weight: float = 10.0,
    bilateral_sxy: float = 20.0,
    bilateral_srgb: float = 5.0,
    bilateral_weight: float = 10.0,
    max_pixels: int = 1_000_000,
) -> npt.NDArray[np.int32]:
    """Bring superpixels of patches to the image's pixels and to its edges (Kim, section 3.3.1).

    A pixel takes the superpixel of the patch it lies in. The dense CRF then takes these labels as its unary, one label
    per superpixel, and each pixel the most probable of its answer. The defaults are the constants behind the maps that
    Kim published, meant for images of VOC's size, 500 pixels along the longer side.

    Time and memory grow with pixels times superpixels: about 16 bytes for each pair.

    Args:
        image: uint8 (H, W, 3).
        patches: superpixel of each patch, integers of shape (rows, columns), as `discover_superpixels` numbers them.
        covered: height and width, in pixels of the image, that all rows and columns of patches span from its
            upper left corner; more than its own where it was padded for the network. None if they are its own.
        confidence: probability of a pixel's own superpixel in the unary, the others share the rest; in (0, 1].
        iterations: of mean field; 0 leaves the patches' borders as they are.
        gaussian_sxy: see `tag2mask.dense_crf`, as all that follow.
        gaussian_weight: its weight.
        bilateral_sxy: in pixels.
        bilateral_srgb: in steps of 0..255.
        bilateral_weight: its weight.
        max_pixels: larger images are refined on a copy shrunk to about this many pixels, and its labels enlarged
            by nearest neighbour.

    Returns:
        int32 (H, W): superpixels from 0 without gaps, in the order of their numbers in `patches`. One that lies in the
        padding or loses all its pixels to others is gone.

    Raises:
        DataError: an array of another shape or type, or patches that do not cover the image.
        SettingsError: a parameter is out of its range.

    Example:
        >>> photo = np.zeros((2, 4, 3), dtype=np.uint8)
        >>> label_superpixels(photo, np.array([[0, 3]]), iterations=0)
        array([[0, 0, 1, 1],
               [0, 0, 1, 1]], dtype=int32)
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise DataError(f"image must be uint8 of shape (H, W, 3), not {image.dtype} of shape {image.shape}")
    if patches.ndim != 2 or patches.size == 0 or not np.issubdtype(patches.dtype, np.integer):
        raise DataError(f"patches must be integers of shape (rows, columns), not {patches.dtype} of {patches.shape}")
    if not 0 < confidence <= 1:
        raise SettingsError(f"confidence must be above 0 and at most 1, not {confidence}")
    if max_pixels < 1:
        raise SettingsError(f"max_pixels must be 1 or more, not {max_pixels}")
    height, width = image.shape[:2]
    spanned = covered or (height, width)
    if spanned[0] < height or spanned[1] < width:
        raise DataError(
            f"patches that cover {spanned[1]:g}x{spanned[0]:g} leave pixels of a {width}x{height} image out"
        )
    labels = patches[np.ix_(_cells(height, spanned[0], len(patches)), _cells(width, spanned[1], patches.shape[1]))]
    labels = _numbered(labels)
    if iterations == 0 or labels.max() == 0:
        return labels
    shrink = min(1.0, (max_pixels / (height * width)) ** 0.5)
    small = max(1, round(shrink * height)), max(1, round(shrink * width))
    rows, columns = _cells(small[0], small[0], height), _cells(small[1], small[1], width)
    shown = Image.fromarray(image).resize(small[::-1], Image.Resampling.BOX) if shrink < 1 else image
    refined = dense_crf(
        np.asarray(shown),
        _label_probabilities(labels[np.ix_(rows, columns)], int(labels.max()) + 1, confidence),
        iterations=iterations,
        gaussian_sxy=gaussian_sxy * shrink,
        gaussian_weight=gaussian_weight,
        bilateral_sxy=bilateral_sxy * shrink,
        bilateral_srgb=bilateral_srgb,
        bilateral_weight=bilateral_weight,
        max_pixels=None,
    ).argmax(0)
    return _numbered(refined[np.ix_(_cells(height, height, small[0]), _cells(width, width, small[1]))])


def _cells(pixels: int, spanned: float, cells: int) -> npt.NDArray[np.intp]:
    """Index of the cell that each pixel's centre lies in, along one side of which the cells span so many pixels."""
    index: npt.NDArray[np.intp] = ((np.arange(pixels) + 0.5) * cells / spanned).astype(np.intp)
    return index.clip(max=cells - 1)


def _numbered(labels: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int32]:
    """The same partition, numbered from 0 without gaps and in the same order."""
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.int32)


def _label_probabilities(labels: npt.NDArray[np.int32], count: int, confidence: float) -> npt.NDArray[np.float32]:
    """`tag2mask.refine.dense_crf.label_probabilities` for more labels than a mask has classes, none unlabelled."""
    probabilities = np.full((count, *labels.shape), (1 - confidence) / (count - 1), dtype=np.float32)
    np.put_along_axis(probabilities, labels[None].astype(np.intp), np.float32(confidence), axis=0)
    return probabilities


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
