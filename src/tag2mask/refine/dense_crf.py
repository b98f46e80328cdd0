"""The fully connected CRF: probabilities that follow the edges of the photograph.

Mean field of Krähenbühl & Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials" (NIPS
2011), with the filtering of Adams, Baek & Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice"
(Eurographics 2010). Gaussian kernel on position, bilateral kernel on position and colour, Potts compatibility,
symmetric normalisation, a pixel's message to itself included: the model pydensecrf solves, and the same answer.
"""

import math
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from tag2mask.data.classes import MAX_CLASSES, UNLABELLED
from tag2mask.errors import DataError, SettingsError, unknown_choice
from tag2mask.refine import _permutohedral

MAX_PIXELS = 4_000_000
"""Photographs with more pixels are solved at a reduced size unless the caller says otherwise."""

UNARIES = ("log", "flat")
"""Names of the unary energies: -log of the probability, or minus the probability itself."""

Array: TypeAlias = npt.NDArray[Any] | torch.Tensor
Arrays: TypeAlias = Array | Sequence[npt.NDArray[Any]] | Sequence[torch.Tensor]
ProbabilitiesT = TypeVar("ProbabilitiesT", bound=Arrays)
ArrayT = TypeVar("ArrayT", npt.NDArray[Any], torch.Tensor)


class ReducedSizeWarning(UserWarning):
    """A photograph had more than `max_pixels` pixels, so its CRF was solved on a smaller copy."""


class _Kernels(NamedTuple):
    """The CRF's parameters, in the compiled kernel's order."""

    iterations: int
    gaussian_sxy: float
    gaussian_weight: float
    bilateral_sxy: float
    bilateral_srgb: float
    bilateral_weight: float

    def scaled(self, factor: float) -> "_Kernels":
        """The same CRF on a photograph whose sides are `factor` times as long."""
        return self._replace(gaussian_sxy=self.gaussian_sxy * factor, bilateral_sxy=self.bilateral_sxy * factor)


class _Unary(NamedTuple):
    """How probabilities become energies."""

    kind: str
    min_probability: float


def dense_crf(
    image: Arrays,
    probabilities: ProbabilitiesT,
    *,
    iterations: int = 10,
    gaussian_sxy: float = 3.0,
    gaussian_weight: float = 3.0,
    bilateral_sxy: float = 80.0,
    bilateral_srgb: float = 13.0,
    bilateral_weight: float = 10.0,
    unary: Literal["log", "flat"] = "log",
    min_probability: float = 1e-5,
    max_pixels: int | None = MAX_PIXELS,
    threads: int = 1,
) -> ProbabilitiesT:
    """Refine class probabilities with a fully connected CRF (Krähenbühl & Koltun 2011).

    One mean-field update is ``Q = softmax(-unary + sum over kernels of weight * D K D Q)`` with
    ``D = diag(1 / sqrt(K 1))``; the start is ``softmax(-unary)``. The defaults are those of DeepLab, SEC and PSA at
    test time. On a photograph shrunk by a factor f, divide both `sxy` by f.

    Memory: about ``150 + 8 * classes`` bytes per pixel and ``200 + 8 * classes`` bytes per lattice vertex, of which a
    photograph has 0.1 to 0.5 per pixel, noise up to 6. Images are solved one per thread, each in one thread and without
    the GIL; the result does not depend on `threads`.

    Args:
        image: photograph, RGB, uint8, shape (H, W, 3); for a batch (N, H, W, 3), or a sequence of (H, W, 3).
        probabilities: floats in [0, 1], shape (C, H, W); for a batch (N, C, H, W), or a sequence of (C, H, W) whose
            sizes and class counts may differ. NumPy arrays, or tensors on any device; gradients are not followed.
        iterations: number of mean-field updates; 0 gives the normalised unary.
        gaussian_sxy: standard deviation of the Gaussian kernel in pixels.
        gaussian_weight: weight of the Gaussian kernel; 0 switches it off.
        bilateral_sxy: standard deviation of the bilateral kernel's position in pixels.
        bilateral_srgb: standard deviation of the bilateral kernel's colour, in units of the 0..255 range.
        bilateral_weight: weight of the bilateral kernel; 0 switches it off.
        unary: ``"log"`` for -log p, ``"flat"`` for -p (what DSRG's published code does).
        min_probability: smaller probabilities count as this in the log.
        max_pixels: larger photographs are solved on a copy shrunk to at most this many pixels, the result enlarged
            bilinearly and renormalised, with a `ReducedSizeWarning`; ``None`` for no limit.
        threads: images solved at the same time.

    Returns:
        Probabilities that sum to 1 over classes: the kind (array, tensor on the same device, list or tuple) and shape
        of `probabilities`, float32.

    Raises:
        DataError: shapes, types or values are not as above.
        SettingsError: a parameter is out of its range, or a standard deviation is so small that the lattice would have
            more cells than can be numbered (below about 0.3 colour levels).

    Example:
        >>> photo = np.zeros((4, 6, 3), dtype=np.uint8)
        >>> dense_crf(photo, np.full((2, 4, 6), 0.5, dtype=np.float32)).shape
        (2, 4, 6)
    """
    kernels = _Kernels(iterations, gaussian_sxy, gaussian_weight, bilateral_sxy, bilateral_srgb, bilateral_weight)
    energy = _Unary(unary, min_probability)
    _check_settings(kernels, energy, max_pixels, threads)

    single = not isinstance(probabilities, (list, tuple)) and cast(Array, probabilities).ndim == 3
    pairs = [(cast(Array, image), cast(Array, probabilities))] if single else _pairs(image, probabilities)
    reduced = []
    for photo, p in pairs:
        _check_shapes(photo, p)
        height, width = p.shape[-2:]
        if max_pixels is not None and height * width > max_pixels:
            reduced.append((height, width, *_reduced_size(height, width, max_pixels)))
    if reduced:
        height, width, small_height, small_width = reduced[0]
        more = f" (and {len(reduced) - 1} more of the batch)" if len(reduced) > 1 else ""
        warnings.warn(
            f"dense CRF of a {width}x{height} photograph{more} solved at {small_width}x{small_height} and enlarged "
            f"again: it has more than max_pixels = {max_pixels} pixels",
            ReducedSizeWarning,
            stacklevel=2,
        )

    def refine(pair: tuple[Array, Array]) -> Array:
        return _refine(*pair, kernels, energy, max_pixels)

    if threads > 1 and len(pairs) > 1:
        with ThreadPoolExecutor(min(threads, len(pairs))) as pool:
            refined = list(pool.map(refine, pairs))
    else:
        refined = [refine(pair) for pair in pairs]

    result: object
    if single:
        result = refined[0]
    elif isinstance(probabilities, (list, tuple)):
        result = type(probabilities)(refined)
    elif isinstance(probabilities, torch.Tensor):
        result = torch.stack(cast(list[torch.Tensor], refined)) if refined else probabilities.detach().float()
    else:
        result = (
            np.stack(cast(list[npt.NDArray[Any]], refined)) if refined else np.zeros_like(probabilities, np.float32)
        )
    return cast(ProbabilitiesT, result)


def label_probabilities(labels: ArrayT, classes: int, *, confidence: float = 0.7) -> ArrayT:
    """Probabilities for `dense_crf` from hard labels.

    A labelled pixel's class gets `confidence` and the other classes share the rest evenly; an unlabelled pixel is
    uniform. This is the unary in common use for masks without scores (pydensecrf's unary from labels).

    Args:
        labels: integer class ids 0..classes-1, or 255 where unlabelled; shape (H, W), NumPy array or tensor.
        classes: number of classes including background, 1 to 255.
        confidence: probability of the labelled class, in (0, 1].

    Returns:
        Probabilities of the kind of `labels`, float32, shape (classes, H, W), summing to 1 over classes.

    Raises:
        DataError: labels of another shape or type, or a label that is no class.
        SettingsError: an impossible class count or confidence.
    """
    if not 1 <= classes <= MAX_CLASSES:
        raise SettingsError(f"classes must be 1 to {MAX_CLASSES}, not {classes}")
    if not 0 < confidence <= 1:
        raise SettingsError(f"confidence must be above 0 and at most 1, not {confidence}")
    values = labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else labels
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.integer):
        raise DataError(f"labels must be integers of shape (H, W), not {values.dtype} of shape {tuple(values.shape)}")
    unlabelled = values == UNLABELLED
    wrong = ~unlabelled & ((values < 0) | (values >= classes))
    if wrong.any():
        raise DataError(f"label {values[wrong][0]} is none of the classes 0..{classes - 1} and not {UNLABELLED}")

    others = (1 - confidence) / (classes - 1) if classes > 1 else 0.0
    table = np.full((classes, classes + 1), others, dtype=np.float32)  # last column: unlabelled
    np.fill_diagonal(table, confidence if classes > 1 else 1.0)
    table[:, classes] = 1 / classes
    probabilities = table[:, np.where(unlabelled, classes, values.astype(np.intp))]
    return torch.from_numpy(probabilities).to(labels.device) if isinstance(labels, torch.Tensor) else probabilities


def _check_settings(kernels: _Kernels, energy: _Unary, max_pixels: int | None, threads: int) -> None:
    if kernels.iterations < 0:
        raise SettingsError(f"iterations must be 0 or more, not {kernels.iterations}")
    for name in ("gaussian_sxy", "bilateral_sxy", "bilateral_srgb"):
        value = getattr(kernels, name)
        if not (value > 0 and math.isfinite(value)):
            raise SettingsError(f"{name} must be a positive number, not {value}")
    for name in ("gaussian_weight", "bilateral_weight"):
        value = getattr(kernels, name)
        if not (value >= 0 and math.isfinite(value)):
            raise SettingsError(f"{name} must be 0 or a positive number, not {value}")
    if energy.kind not in UNARIES:
        raise SettingsError(unknown_choice("unary", energy.kind, UNARIES))
    if not 0 < energy.min_probability < 1:
        raise SettingsError(f"min_probability must be above 0 and below 1, not {energy.min_probability}")
    if max_pixels is not None and max_pixels < 1:
        raise SettingsError(f"max_pixels must be 1 or more, or None, not {max_pixels}")
    if threads < 1:
        raise SettingsError(f"threads must be 1 or more, not {threads}")


def _pairs(image: Arrays, probabilities: Arrays) -> list[tuple[Array, Array]]:
    """The images of a batch with their probabilities."""
    sequences = isinstance(image, (list, tuple)), isinstance(probabilities, (list, tuple))
    if not all(sequences):
        dimensions = [
            None if listed else cast(Array, x).ndim for listed, x in zip(sequences, (image, probabilities), strict=True)
        ]
        if dimensions[0] not in (None, 4) or dimensions[1] not in (None, 4):
            raise DataError(
                "image and probabilities must have shapes (H, W, 3) and (C, H, W), or (N, H, W, 3) and (N, C, H, W), "
                "or be sequences of the former"
            )
    if len(image) != len(probabilities):
        raise DataError(f"{len(image)} images but {len(probabilities)} probability maps")
    return list(zip(image, probabilities, strict=True))


def _check_shapes(image: Array, probabilities: Array) -> None:
    """Shapes and types of one image and its probabilities."""
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype not in (np.uint8, torch.uint8):
        raise DataError(f"image must be uint8 of shape (H, W, 3), not {image.dtype} of shape {tuple(image.shape)}")
    floating = (
        probabilities.is_floating_point()
        if isinstance(probabilities, torch.Tensor)
        else np.issubdtype(probabilities.dtype, np.floating)
    )
    if probabilities.ndim != 3 or not floating:
        raise DataError(
            f"probabilities must be floats of shape (C, H, W), not {probabilities.dtype} of shape "
            f"{tuple(probabilities.shape)}"
        )
    if tuple(image.shape[:2]) != tuple(probabilities.shape[1:]):
        raise DataError(
            f"image has height and width {tuple(image.shape[:2])}, probabilities {tuple(probabilities.shape[1:])}"
        )
    if 0 in probabilities.shape:
        raise DataError(f"probabilities of shape {tuple(probabilities.shape)} are empty")


def _refine(image: Array, probabilities: Array, kernels: _Kernels, energy: _Unary, max_pixels: int | None) -> Array:
    """Dense CRF of one image; shapes are checked already."""
    photo = image.cpu().numpy() if isinstance(image, torch.Tensor) else image
    if isinstance(probabilities, torch.Tensor):
        p = probabilities.detach().to("cpu", torch.float32).numpy()
    else:
        p = probabilities.astype(np.float32, copy=False)
    # The tolerance is for softmax in half precision; one comparison each also finds NaN.
    if not (p.min() >= 0 and p.max() <= 1 + 1e-2):
        raise DataError(
            "probabilities must lie between 0 and 1; found NaN, negative or larger values (scores, perhaps?)"
        )

    height, width = p.shape[1:]
    if max_pixels is not None and height * width > max_pixels:
        small = _reduced_size(height, width, max_pixels)
        factor = math.sqrt(small[0] * small[1] / (height * width))
        q = _solve(_resized_photo(photo, small), _resized(p, small), kernels.scaled(factor), energy)
        q = _resized(q, (height, width))
        q /= q.sum(axis=0)
    else:
        q = _solve(photo, p, kernels, energy)
    return torch.from_numpy(q).to(probabilities.device) if isinstance(probabilities, torch.Tensor) else q


def _solve(
    photo: npt.NDArray[np.uint8], probabilities: npt.NDArray[np.float32], kernels: _Kernels, energy: _Unary
) -> npt.NDArray[np.float32]:
    """Mean field at the given size."""
    if energy.kind == "log":
        scores = np.log(np.clip(probabilities, energy.min_probability, 1.0, order="C"))
    else:
        scores = np.array(probabilities, order="C")
    try:
        _permutohedral.mean_field(np.ascontiguousarray(photo), scores, *kernels)
    except ValueError as error:
        raise SettingsError(f"dense CRF of a {photo.shape[1]}x{photo.shape[0]} photograph: {error}") from error
    return scores


def _reduced_size(height: int, width: int, max_pixels: int) -> tuple[int, int]:
    """Largest height and width of nearly the same aspect ratio with at most `max_pixels` pixels."""
    factor = math.sqrt(max_pixels / (height * width))
    small_height = max(1, int(height * factor))
    return small_height, max(1, min(int(width * factor), max_pixels // small_height))


def _resized(maps: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Maps (C, H, W) at another size, bilinear; averaged over the covered area where it shrinks."""
    resized = F.interpolate(
        torch.from_numpy(np.ascontiguousarray(maps))[None], size=size, mode="bilinear", antialias=True
    )
    return cast(npt.NDArray[np.float32], resized[0].numpy())


def _resized_photo(photo: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Photograph (H, W, 3) at another size."""
    planes = np.moveaxis(photo, -1, 0).astype(np.float32)
    return np.moveaxis(np.rint(_resized(planes, size)), 0, -1).astype(np.uint8)
