"""Quality of superpixels against true masks: undersegmentation error, boundary recall and precision, best accuracy.

Kim, "A Study on Weakly Supervised Semantic Segmentation Using Image Masking and Clustering" (dissertation, Seoul
National University, 2022), section 3.4.3, equations 3.9 to 3.12, with classes as the regions of the truth. Conventions
where the source has none:

- Pixels that the truth leaves unlabelled (255) belong to no superpixel and no class in undersegmentation error and
  achievable accuracy.
- A boundary is two pixels wide: a pixel belongs to it if one of its four neighbours carries another label. The frame of
  the image is no boundary.
- A boundary of the truth lies between two labelled pixels. VOC's masks part objects from background by a band of
  unlabelled pixels and have hardly any such boundaries; `unlabelled_borders` counts labelled pixels beside unlabelled
  ones as boundary, too.
- A superpixel's boundary on unlabelled pixels can recall the truth's boundary, but does not count in the precision.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tag2mask.data.classes import UNLABELLED
from tag2mask.errors import DataError, SettingsError

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class SuperpixelScores:
    """Scores of one image's superpixels or means over images; None where a score is undefined.

    Attributes:
        undersegmentation_error: share of labelled pixels that leak over a class's border, both sides' leaks summed
            (eq. 3.9); None without labelled pixels.
        boundary_recall: share of the truth's boundary near one of a superpixel (eq. 3.10); None without the former.
        boundary_precision: share of the superpixels' boundary near one of the truth (eq. 3.11); None without the
            former on labelled pixels.
        achievable_accuracy: share of labelled pixels that are right if every superpixel takes its most frequent class
            (eq. 3.12); None without labelled pixels.
        superpixels: number of superpixels.
    """

    undersegmentation_error: float | None
    boundary_recall: float | None
    boundary_precision: float | None
    achievable_accuracy: float | None
    superpixels: float

    def to_dict(self) -> dict[str, float | None]:
        """The scores as JSON can hold them."""
        return dict(vars(self))


def score_superpixels(
    superpixels: npt.ArrayLike, truth: npt.ArrayLike, *, tolerance: float = 2.0, unlabelled_borders: bool = False
) -> SuperpixelScores:
    """Scores one image's superpixels.

    Args:
        superpixels: their numbers, integers from 0, of shape (H, W); in any order, with gaps, connected or not.
        truth: class ids of the same shape, 255 where unknown.
        tolerance: boundaries closer than this many pixels are near each other, strictly; above 0,
            finite.
        unlabelled_borders: whether a labelled pixel beside an unlabelled one is boundary of the truth.

    Raises:
        DataError: other shapes, types or values.
        SettingsError: a tolerance that is not above 0 or not finite.

    Example:
        >>> scores = score_superpixels([[0, 0, 1, 1]], [[0, 0, 0, 1]])
        >>> scores.achievable_accuracy, scores.undersegmentation_error
        (0.75, 0.5)
    """
    parts, true = np.asarray(superpixels), np.asarray(truth)
    _check(parts, true, tolerance)
    true = true.astype(np.uint8, copy=False)
    overlaps, count = _overlaps(parts, true)
    pixels = int(overlaps.sum())
    leaks = np.minimum(overlaps, overlaps.sum(axis=1, keepdims=True) - overlaps)

    labelled = true != UNLABELLED
    part_boundary = _boundary(parts)
    true_boundary = _boundary(true) & labelled if unlabelled_borders else _boundary(true, labelled)
    recalled = _count(true_boundary & _near(part_boundary, tolerance))
    part_boundary &= labelled
    precise = _count(part_boundary & _near(true_boundary, tolerance))
    return SuperpixelScores(
        undersegmentation_error=_ratio(int(leaks.sum()), pixels),
        boundary_recall=_ratio(recalled, _count(true_boundary)),
        boundary_precision=_ratio(precise, _count(part_boundary)),
        achievable_accuracy=_ratio(int(overlaps.max(axis=1, initial=0).sum()), pixels),
        superpixels=count,
    )


class SuperpixelMeans:
    """Means of scores over images, each over the images where the score is defined.

    Attributes:
        images: scores of the images so far.
    """

    def __init__(self, images: Iterable[SuperpixelScores] = ()) -> None:
        """Starts from nothing, or from scores made before."""
        self.images = list(images)

    def add(self, superpixels: npt.ArrayLike, truth: npt.ArrayLike, **options: Any) -> None:
        """Scores one image: arguments and errors of `score_superpixels`."""
        self.images.append(score_superpixels(superpixels, truth, **options))

    def merge(self, other: "SuperpixelMeans") -> None:
        """Adds the images of another part of the data set."""
        self.images += other.images

    def scores(self) -> SuperpixelScores:
        """Means over all images; they do not depend on the images' order.

        Raises:
            DataError: no image was scored.
        """
        if not self.images:
            raise DataError("no superpixels were scored, there is nothing to average")
        return SuperpixelScores(
            undersegmentation_error=_mean(scores.undersegmentation_error for scores in self.images),
            boundary_recall=_mean(scores.boundary_recall for scores in self.images),
            boundary_precision=_mean(scores.boundary_precision for scores in self.images),
            achievable_accuracy=_mean(scores.achievable_accuracy for scores in self.images),
            superpixels=math.fsum(scores.superpixels for scores in self.images) / len(self.images),
        )


def _check(parts: npt.NDArray[Any], true: npt.NDArray[Any], tolerance: float) -> None:
    if parts.ndim != 2 or parts.shape != true.shape:
        raise DataError(f"superpixels of shape {parts.shape} and truth of shape {true.shape}; both must be (H, W)")
    for what, values, highest in (("superpixels", parts, None), ("truth", true, UNLABELLED)):
        if not np.issubdtype(values.dtype, np.integer):
            raise DataError(f"{what} must be integers, not {values.dtype}")
        if values.size and (values.min() < 0 or (highest is not None and values.max() > highest)):
            raise DataError(f"{what} must be 0 or more{f' and at most {highest}' if highest else ''}")
    if not 0 < tolerance < math.inf:
        raise SettingsError(f"tolerance must be above 0 and finite, not {tolerance}")


def _overlaps(parts: npt.NDArray[Any], true: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int64], int]:
    """Pixels by superpixel (row) and class (column), unlabelled ones left out, and the number of superpixels."""
    if parts.size and parts.max() >= parts.size:  # a table of all numbers up to it could be far too large
        parts = np.unique(parts, return_inverse=True)[1]
    rows = int(parts.max(initial=0)) + 1
    classes = int(true.max(initial=0, where=true != UNLABELLED)) + 1
    index = parts.astype(np.intp) * (classes + 1)
    index += np.minimum(true, np.uint8(classes))  # the last column is for unlabelled pixels
    table = np.bincount(index.ravel(), minlength=rows * (classes + 1)).reshape(rows, classes + 1)
    return table[:, :classes], int(np.count_nonzero(table.any(axis=1)))


def _boundary(labels: npt.NDArray[Any], counted: Mask | None = None) -> Mask:
    """Pixels with one of four neighbours of another label; where given, pairs of counted pixels alone."""
    boundary = np.zeros(labels.shape, dtype=bool)
    for one, other in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differ = labels[one] != labels[other]
        if counted is not None:
            differ &= counted[one]
            differ &= counted[other]
        boundary[one] |= differ
        boundary[other] |= differ
    return boundary


def _near(boundary: Mask, tolerance: float) -> Mask:
    """Pixels at a Euclidean distance strictly below the tolerance: the boundary dilated by a disc, row by row of it.

    Its cost grows with the tolerance and is below that of a distance transform for all tolerances in use.
    """
    height, width = boundary.shape
    near = np.zeros_like(boundary)
    widened, half_width = boundary.copy(), 0
    for dy in range(min(math.ceil(tolerance), height) - 1, -1, -1):
        while half_width + 1 < width and math.hypot(dy, half_width + 1) < tolerance:
            half_width += 1
            narrow = widened.copy()
            widened[:, 1:] |= narrow[:, :-1]
            widened[:, :-1] |= narrow[:, 1:]
        near[dy:] |= widened[: height - dy]
        near[: height - dy] |= widened[dy:]
    return near


def _count(mask: Mask) -> int:
    return int(np.count_nonzero(mask))


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(scores: Iterable[float | None]) -> float | None:
    defined = [score for score in scores if score is not None]
    return math.fsum(defined) / len(defined) if defined else None
