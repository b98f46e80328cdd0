"""The fully connected CRF: probabilities that follow the edges of the image.

Mean field of Krähenbühl & Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials" (NIPS
2011), with the filtering of Adams, Baek & Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice"
(Eurographics 2010). Gaussian kernel on position, bilateral kernel on position and colour, Potts compatibility,
symmetric normalisation, a pixel's message to itself included: the model pydensecrf solves, and the same answer.

CUDA tensors are solved on their device by `tag2mask.refine.lattice`, everything else by the compiled kernel.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby
from numbers import Integral
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from tag2mask.base.versions import Code
from tag2mask.data.classes import MAX_CLASSES, UNLABELLED
from tag2mask.errors import DataError, SettingsError, unknown_choice
from tag2mask.refine import _permutohedral, lattice

CODE = Code("dense CRF")

MAX_PIXELS = 4_000_000
"""Images with more pixels are solved at a reduced size unless the caller says otherwise."""

UNARIES = ("log", "flat")
"""Names of the unary energies: -log of the probability, or minus the probability itself."""

_MOST_ITERATIONS = 2**31 - 1  # as many as the compiled kernel can count
_LARGEST_WEIGHT = 1e30  # in float32 sums of products with larger ones would overflow
_SMALLEST_PROBABILITY = 1e-37  # smaller numbers are 0 in float32, or denormal

Array: TypeAlias = npt.NDArray[Any] | torch.Tensor
Arrays: TypeAlias = Array | Sequence[npt.NDArray[Any]] | Sequence[torch.Tensor]
ProbabilitiesT = TypeVar("ProbabilitiesT", bound=Arrays)
ArrayT = TypeVar("ArrayT", npt.NDArray[Any], torch.Tensor)


class ReducedSizeWarning(UserWarning):
    """An image had more than `max_pixels` pixels, so its CRF was solved on a smaller copy."""


class _Kernels(NamedTuple):
    """The CRF's parameters, in the compiled kernel's order."""

    iterations: int
    gaussian_sxy: float
    gaussian_weight: float
    bilateral_sxy: float
    bilateral_srgb: float
    bilateral_weight: float

    def scaled(self, factor: float) -> "_Kernels":
        """The same CRF on an image whose sides are `factor` times as long."""
        return self._replace(gaussian_sxy=self.gaussian_sxy * factor, bilateral_sxy=self.bilateral_sxy * factor)


class _Unary(NamedTuple):
    """Unary energy of probabilities."""

    kind: str
    min_probability: float


class _Task(NamedTuple):
    """One image, and the size it is solved at."""

    image: Array
    probabilities: Array
    size: tuple[int, int]
    kernels: _Kernels

    @property
    def full_size(self) -> tuple[int, int]:
        height, width = self.probabilities.shape[1:]
        return height, width


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
    ``D = diag(1 / sqrt(K 1))``; the start is ``softmax(-unary)``. The defaults are those of SEC (Kolesnikov &
    Lampert, ECCV 2016) and of pydensecrf's example. On an image shrunk by a factor f, divide both `sxy` by f.

    Memory: about ``150 + 8 * classes`` bytes per pixel and ``200 + 8 * classes`` bytes per lattice vertex, of which a
    photograph has 0.1 to 0.5 per pixel, noise and very narrow kernels several. After a call up to 64 MB stay in use,
    for the next image of the same size. Images are solved one per thread, each in one thread and without the
    GIL; the result does not depend on `threads`.

    Probabilities that are CUDA tensors are solved on their device, in float32 whatever their type, images of a batch
    together (`tag2mask.refine.lattice`). The answer is that of the CPU within rounding, and does not depend on what
    else is in the batch.

    Args:
        image: RGB, uint8, shape (H, W, 3); for a batch (N, H, W, 3), or a sequence of (H, W, 3). It may be
            on another device than the probabilities.
        probabilities: floats in [0, 1], shape (C, H, W); for a batch (N, C, H, W), or a sequence of (C, H, W) whose
            sizes and class counts may differ. NumPy arrays, or tensors on any device; gradients are not followed.
        iterations: number of mean-field updates; 0 gives the normalised unary.
        gaussian_sxy: standard deviation of the Gaussian kernel in pixels.
        gaussian_weight: weight of the Gaussian kernel; 0 switches it off.
        bilateral_sxy: standard deviation of the bilateral kernel's position in pixels.
        bilateral_srgb: standard deviation of the bilateral kernel's colour, in units of the 0..255 range.
        bilateral_weight: weight of the bilateral kernel; 0 switches it off.
        unary: ``"log"`` for -log p, ``"flat"`` for -p (what DSRG's published code does).
        min_probability: smaller probabilities count as this in the log; at least 1e-37.
        max_pixels: larger images are solved on a copy shrunk to at most this many pixels, the result enlarged
            bilinearly and renormalised, with a `ReducedSizeWarning`; ``None`` for no limit.
        threads: images solved at the same time on the CPU.

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
    tasks = []
    for photo, p in pairs:
        _check_shapes(photo, p)
        tasks.append(_task(photo, p, kernels, max_pixels))
    reduced = [task for task in tasks if task.size != task.full_size]
    if reduced:
        (height, width), (small_height, small_width) = reduced[0].full_size, reduced[0].size
        more = f" (and {len(reduced) - 1} more of the batch)" if len(reduced) > 1 else ""
        warnings.warn(
            f"dense CRF of a {width}x{height} image{more} solved at {small_width}x{small_height} and enlarged "
            f"again: it has more than max_pixels = {max_pixels} pixels",
            ReducedSizeWarning,
            stacklevel=2,
        )

    by_index: dict[int, Array] = {}
    host, device = _batches(tasks)
    if threads > 1 and len(host) > 1:
        with ThreadPoolExecutor(min(threads, len(host))) as pool:
            by_index |= zip(host, pool.map(lambda index: _refined(tasks[index], energy), host), strict=True)
    else:
        by_index |= {index: _refined(tasks[index], energy) for index in host}
    # By the calling thread: the stream that a device computes on is a thread's own.
    for batch in device:
        by_index |= zip(batch, _refined_on_device([tasks[index] for index in batch], energy), strict=True)
    refined = [by_index[index] for index in range(len(tasks))]

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
    if not (isinstance(kernels.iterations, Integral) and 0 <= kernels.iterations <= _MOST_ITERATIONS):
        raise SettingsError(f"iterations must be an integer, 0 to {_MOST_ITERATIONS}, not {kernels.iterations}")
    for name in ("gaussian_sxy", "bilateral_sxy", "bilateral_srgb"):
        value = getattr(kernels, name)
        if not (value > 0 and math.isfinite(value)):
            raise SettingsError(f"{name} must be a positive number, not {value}")
    for name in ("gaussian_weight", "bilateral_weight"):
        value = getattr(kernels, name)
        if not 0 <= value <= _LARGEST_WEIGHT:
            raise SettingsError(f"{name} must be between 0 and {_LARGEST_WEIGHT:.0e}, not {value}")
    if energy.kind not in UNARIES:
        raise SettingsError(unknown_choice("unary", energy.kind, UNARIES))
    if not _SMALLEST_PROBABILITY <= energy.min_probability < 1:
        raise SettingsError(
            f"min_probability must be {_SMALLEST_PROBABILITY:.0e} or more and below 1, not {energy.min_probability}"
        )
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


def _task(image: Array, probabilities: Array, kernels: _Kernels, max_pixels: int | None) -> _Task:
    height, width = size = probabilities.shape[1], probabilities.shape[2]
    if max_pixels is not None and height * width > max_pixels:
        size = _reduced_size(height, width, max_pixels)
    return _Task(image, probabilities, size, kernels.scaled(math.sqrt(size[0] * size[1] / (height * width))))


def _on_device(task: _Task) -> bool:
    """True if the image is solved where its probabilities are, not by the compiled kernel."""
    return isinstance(task.probabilities, torch.Tensor) and task.probabilities.is_cuda


def _batches(tasks: Sequence[_Task]) -> tuple[list[int], list[list[int]]]:
    """Indices of the images that are solved one by one, and of those that are solved together.

    On a device those alike are, up to `MAX_PIXELS` pixels at a time.
    """
    host = [index for index, task in enumerate(tasks) if not _on_device(task)]
    batches: list[list[int]] = []

    def alike(index: int) -> tuple[str, int, _Kernels]:
        probabilities = cast(torch.Tensor, tasks[index].probabilities)
        return str(probabilities.device), len(probabilities), tasks[index].kernels

    for _, group in groupby(sorted((i for i, task in enumerate(tasks) if _on_device(task)), key=alike), alike):
        room = 0
        for index in group:
            pixels = math.prod(tasks[index].size)
            if pixels > room:
                batches.append([])
                room = MAX_PIXELS
            batches[-1].append(index)
            room -= pixels
    return host, batches


def _refined(task: _Task, energy: _Unary) -> Array:
    """One image by the compiled kernel."""
    photo = task.image.cpu().numpy() if isinstance(task.image, torch.Tensor) else task.image
    if isinstance(task.probabilities, torch.Tensor):
        p = task.probabilities.detach().to("cpu", torch.float32).numpy()
    else:
        p = task.probabilities.astype(np.float32, copy=False)
    photo, p = _at_size(photo, p, task.size)
    if energy.kind == "log":
        scores = np.clip(p, energy.min_probability, 1.0, order="C")
        np.log(scores, out=scores)
    else:
        scores = np.array(p, order="C")
    with _photograph_named(task.size):
        _permutohedral.mean_field(np.ascontiguousarray(photo), scores, *task.kernels)
    q = _enlarged(scores, task.full_size)
    return torch.from_numpy(q).to(task.probabilities.device) if isinstance(task.probabilities, torch.Tensor) else q


def _refined_on_device(tasks: Sequence[_Task], energy: _Unary) -> list[Array]:
    """Images of one device, class count and set of kernels, solved together."""
    photos, scores = [], []
    for task in tasks:
        with _photograph_named(task.size):
            lattice.check_size(*task.size, lattice.active_kernels(*task.kernels))
        p = cast(torch.Tensor, task.probabilities).detach().float()
        photo, p = _at_size(_tensor(task.image).to(p.device), p, task.size)
        photos.append(photo)
        scores.append(p.clamp(energy.min_probability, 1.0).log() if energy.kind == "log" else p)
    solved = lattice.mean_field(photos, scores, *tasks[0].kernels)
    return [_enlarged(q, task.full_size) for q, task in zip(solved, tasks, strict=True)]


@contextmanager
def _photograph_named(size: tuple[int, int]) -> Iterator[None]:
    """Turn an error of the kernels into one that names the image."""
    try:
        yield
    except ValueError as error:
        raise SettingsError(f"dense CRF of a {size[1]}x{size[0]} image: {error}") from error


def _at_size(photo: ArrayT, probabilities: ArrayT, size: tuple[int, int]) -> tuple[ArrayT, ArrayT]:
    """An image (H, W, 3) and its probabilities (C, H, W), whose values are checked here, at the size to solve."""
    # The tolerance is for softmax in half precision; one comparison each also finds NaN.
    if not (probabilities.min() >= 0) & (probabilities.max() <= 1 + 1e-2):
        raise DataError(
            "probabilities must lie between 0 and 1; found NaN, negative or larger values (scores, perhaps?)"
        )
    if tuple(photo.shape[:2]) == size:
        return photo, probabilities
    planes = _resized(_tensor(photo).permute(2, 0, 1).float(), size)
    small = planes.round().to(torch.uint8).permute(1, 2, 0)
    return small if isinstance(photo, torch.Tensor) else small.numpy(), _resized(probabilities, size)


def _enlarged(probabilities: ArrayT, size: tuple[int, int]) -> ArrayT:
    """Probabilities (C, H, W) at the image's size."""
    if tuple(probabilities.shape[1:]) == size:
        return probabilities
    q = _resized(probabilities, size)
    q /= q.sum(0)
    return q


def _reduced_size(height: int, width: int, max_pixels: int) -> tuple[int, int]:
    """Largest height and width of nearly the same aspect ratio with at most `max_pixels` pixels."""
    factor = math.sqrt(max_pixels / (height * width))
    small_height = max(1, int(height * factor))
    return small_height, max(1, min(int(width * factor), max_pixels // small_height))


def _resized(maps: ArrayT, size: tuple[int, int]) -> ArrayT:
    """Maps (C, H, W) at another size, bilinear; averaged over the covered area where it shrinks."""
    resized = F.interpolate(_tensor(maps)[None], size=size, mode="bilinear", antialias=True)[0]
    return resized if isinstance(maps, torch.Tensor) else resized.numpy()


def _tensor(array: Array) -> torch.Tensor:
    """The array as a tensor; copied only where torch could not use its memory."""
    return array if isinstance(array, torch.Tensor) else torch.from_numpy(np.require(array, requirements=["C", "W"]))
