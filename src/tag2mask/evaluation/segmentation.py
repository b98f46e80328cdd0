"""Quality of masks: intersection over union and its companions, from one confusion matrix over a data set.

Pixels that the truth leaves unlabelled do not count. Pixels that a prediction leaves unlabelled count as wrong, and
their share is reported. A class that is in neither prediction nor truth has no IoU and is left out of the mean.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tag2mask.base.text import percent
from tag2mask.data.classes import BACKGROUND, MAX_CLASSES, UNLABELLED
from tag2mask.data.masks import read_mask
from tag2mask.data.samples import BACKGROUND_NAME
from tag2mask.errors import DataError

_NAMED = 3  # how many files an error names before it only counts


@dataclass(frozen=True)
class SegmentationScores:
    """Scores of masks, all within 0..1; None where a score is undefined.

    Attributes:
        classes: names of the classes, background first.
        iou: intersection over union per class; None for a class in neither prediction nor truth.
        mean_iou: mean of those that are defined.
        pixel_accuracy: share of the pixels with truth that are predicted right.
        precision: per class, share of the pixels predicted so that are so; None if none is.
        recall: per class, share of the pixels that are so that are predicted so; None if none is.
        labelled_share: share of the pixels with truth that the prediction labels at all.
        labelled_precision: share of those that are right; None if the prediction labels none.
        pixels: number of pixels with truth.
    """

    classes: tuple[str, ...]
    iou: tuple[float | None, ...]
    mean_iou: float
    pixel_accuracy: float
    precision: tuple[float | None, ...]
    recall: tuple[float | None, ...]
    labelled_share: float
    labelled_precision: float | None
    pixels: int

    def to_dict(self) -> dict[str, object]:
        """The scores as JSON can hold them, those per class by class name."""
        return {
            "mean_iou": self.mean_iou,
            "pixel_accuracy": self.pixel_accuracy,
            "labelled_share": self.labelled_share,
            "labelled_precision": self.labelled_precision,
            "pixels": self.pixels,
            "iou": dict(zip(self.classes, self.iou, strict=True)),
            "precision": dict(zip(self.classes, self.precision, strict=True)),
            "recall": dict(zip(self.classes, self.recall, strict=True)),
        }

    def table(self) -> str:
        """The scores as lines of text, in per cent; "-" where a score is undefined."""

        def cell(score: float | None) -> str:
            return f"{percent(score):>9}"

        width = max(len(name) for name in (*self.classes, "class", "mean"))
        rows = zip(self.classes, self.iou, self.precision, self.recall, strict=True)
        return "\n".join(
            [
                f"{'class':<{width}}{'IoU':>9}{'precision':>11}{'recall':>9}",
                *(f"{name:<{width}}{cell(i)}  {cell(p)}{cell(r)}" for name, i, p, r in rows),
                f"{'mean':<{width}}{cell(self.mean_iou)}",
                f"pixel accuracy {percent(self.pixel_accuracy)}, "
                f"labelled {percent(self.labelled_share)} % of the pixels, "
                f"{percent(self.labelled_precision)} % of those right",
            ]
        )


def _ratios(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> tuple[float | None, ...]:
    return tuple(int(p) / int(w) if w else None for p, w in zip(part, whole, strict=True))


class ConfusionMatrix:
    """Counts of pixels by true and predicted class.

    Attributes:
        classes: names of the K classes, background first.
        counts: int64 of shape (K, K + 1); row: truth, column: prediction, the last one for unlabelled.
    """

    def __init__(self, classes: Sequence[str], counts: npt.NDArray[np.int64] | None = None) -> None:
        """Starts from nothing, or from counts made before.

        Args:
            classes: names of the K classes, background first.
            counts: int64 of shape (K, K + 1); taken over, not copied.

        Raises:
            ValueError: names are missing, doubled or more than masks can tell apart, or the counts have another shape.
        """
        self.classes = tuple(classes)
        size = len(self.classes)
        if not 0 < size <= MAX_CLASSES or len(set(self.classes)) < size:
            raise ValueError(f"1 to {MAX_CLASSES} different class names are expected, not {size}: {self.classes}")
        self.counts = np.zeros((size, size + 1), dtype=np.int64) if counts is None else counts
        if self.counts.shape != (size, size + 1) or self.counts.dtype != np.int64:
            raise ValueError(f"counts of {self.counts.dtype} {self.counts.shape} for {size} classes")

    def add(self, truth: npt.ArrayLike, prediction: npt.ArrayLike) -> None:
        """Counts the pixels of one mask.

        Args:
            truth: class ids of any shape, 255 where unknown.
            prediction: class ids of the same shape, 255 where unlabelled.

        Raises:
            ValueError: the shapes differ.
            DataError: an id belongs to no class.
        """
        true, predicted = np.asarray(truth), np.asarray(prediction)
        if true.shape != predicted.shape:
            raise ValueError(f"truth of shape {true.shape} and prediction of shape {predicted.shape}")
        size = len(self.classes)
        known = true != UNLABELLED
        true, predicted = true[known].astype(np.int64), predicted[known].astype(np.int64)
        predicted[predicted == UNLABELLED] = size
        for what, ids, limit in (("truth", true, size), ("prediction", predicted, size + 1)):
            if ids.size and (ids.min() < 0 or ids.max() >= limit):
                wrong = ids[(ids < 0) | (ids >= limit)][0]
                raise DataError(f"class id {wrong} in the {what}, but there are {size} classes, background included")
        self.counts += np.bincount(true * (size + 1) + predicted, minlength=size * (size + 1)).reshape(size, size + 1)

    def merge(self, other: "ConfusionMatrix") -> None:
        """Adds the counts of another part of the data set.

        Raises:
            ValueError: its classes differ.
        """
        if other.classes != self.classes:
            raise ValueError(f"classes {other.classes} cannot be merged with {self.classes}")
        self.counts += other.counts

    def scores(self) -> SegmentationScores:
        """Scores of everything counted.

        Raises:
            DataError: no pixel with truth was counted.
        """
        pixels = int(self.counts.sum())
        if pixels == 0:
            raise DataError("no pixel with truth was counted, there is nothing to score")
        right = self.counts.diagonal()
        true, predicted = self.counts.sum(axis=1), self.counts[:, :-1].sum(axis=0)
        iou = _ratios(right, true + predicted - right)
        labelled = int(predicted.sum())
        return SegmentationScores(
            classes=self.classes,
            iou=iou,
            mean_iou=float(np.mean([score for score in iou if score is not None])),
            pixel_accuracy=int(right.sum()) / pixels,
            precision=_ratios(right, predicted),
            recall=_ratios(right, true),
            labelled_share=labelled / pixels,
            labelled_precision=int(right.sum()) / labelled if labelled else None,
            pixels=pixels,
        )


class ThresholdCurve:
    """Mean IoU of masks made from CAMs, for many background thresholds at once.

    At a threshold t a pixel is background unless the largest CAM exceeds t; then it is that CAM's class, the one with
    the smallest id among equals: the argmax over a background of constant t and the CAMs. Since only the largest CAM
    decides, one histogram over (truth, its class, number of thresholds below it) holds all matrices. It is for
    measuring: thresholds found here use the truth, so nothing may train on them.

    Attributes:
        classes: names of the K classes, background first.
        thresholds: the T thresholds, ascending.
        counts: int64 of shape (K, K, T + 1), the histogram.
    """

    def __init__(self, classes: Sequence[str], thresholds: Sequence[float]) -> None:
        """Starts from nothing.

        Raises:
            ValueError: there is no threshold.
        """
        if not thresholds:
            raise ValueError("at least one threshold is expected")
        self.classes = tuple(classes)
        self.thresholds = tuple(sorted(set(thresholds)))
        self.counts = np.zeros((len(self.classes), len(self.classes), len(self.thresholds) + 1), dtype=np.int64)

    def add(self, truth: npt.ArrayLike, cams: npt.ArrayLike, class_ids: Sequence[int]) -> None:
        """Counts the pixels of one image.

        Args:
            truth: class ids of shape (H, W), 255 where unknown.
            cams: maps of the P present classes, of shape (P, H, W), within 0..1; compared as float32. P may be 0.
            class_ids: ids of these classes, from 1, in any order.

        Raises:
            ValueError: the shapes do not belong together.
            DataError: an id belongs to no class.
        """
        true, maps, ids = np.asarray(truth), np.asarray(cams, dtype=np.float32), np.asarray(class_ids, dtype=np.int64)
        if maps.shape != (len(ids), *true.shape):
            raise ValueError(f"maps of shape {maps.shape} for {len(ids)} classes and truth of shape {true.shape}")
        size = len(self.classes)
        known = true != UNLABELLED
        true = true[known].astype(np.int64)
        for what, some, lowest in (("truth", true, BACKGROUND), ("tags", ids, BACKGROUND + 1)):
            if some.size and (some.min() < lowest or some.max() >= size):
                raise DataError(
                    f"class ids up to {some.max()} in the {what}, but there are {size}, background included"
                )
        if len(ids):
            order = np.argsort(ids)
            maps = maps[order][:, known]
            largest, winner = maps.max(axis=0), ids[order][maps.argmax(axis=0)]
        else:
            largest, winner = np.full(true.shape, -np.inf, np.float32), np.zeros(true.shape, np.int64)
        below = np.searchsorted(np.array(self.thresholds, dtype=np.float32), largest, side="left")
        index = np.ravel_multi_index((true, winner, below), self.counts.shape)
        self.counts += np.bincount(index, minlength=self.counts.size).reshape(self.counts.shape)

    def merge(self, other: "ThresholdCurve") -> None:
        """Adds the counts of another part of the data set.

        Raises:
            ValueError: its classes or thresholds differ.
        """
        if (other.classes, other.thresholds) != (self.classes, self.thresholds):
            raise ValueError("curves of different classes or thresholds cannot be merged")
        self.counts += other.counts

    def matrices(self) -> list[ConfusionMatrix]:
        """The confusion matrix of each threshold."""
        size = len(self.classes)
        result = []
        for index in range(len(self.thresholds)):
            counts = np.zeros((size, size + 1), dtype=np.int64)
            counts[:, :size] = self.counts[:, :, index + 1 :].sum(axis=2)
            counts[:, BACKGROUND] += self.counts[:, :, : index + 1].sum(axis=(1, 2))
            result.append(ConfusionMatrix(self.classes, counts))
        return result

    def scores(self) -> list[tuple[float, float]]:
        """Threshold and mean IoU, thresholds ascending.

        Raises:
            DataError: no pixel with truth was counted.
        """
        pairs = zip(self.thresholds, self.matrices(), strict=True)
        return [(threshold, matrix.scores().mean_iou) for threshold, matrix in pairs]


def _png_files(folder: Path) -> dict[str, Path]:
    """PNG files of a folder and those below it, by path without suffix."""
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".png" and path.is_file())
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def _pairs(predictions: Path, truth: Path, ids: Collection[str] | None) -> list[tuple[Path, Path]]:
    """(truth, prediction) for every true mask: the file at the same place or, failing that, of the same name."""
    predicted, true = _png_files(predictions), _png_files(truth)
    by_name: dict[str, list[Path]] = {}
    for path in predicted.values():
        by_name.setdefault(path.stem, []).append(path)
    wanted = sorted(true if ids is None else ids)
    if not wanted:
        raise DataError(f"{truth}: no PNG masks in it")
    pairs, missing = [], []
    for key in wanted:
        if key not in true:
            raise DataError(f"{truth}: no true mask {key}.png")
        named = [predicted[key]] if key in predicted else by_name.get(Path(key).name, [])
        if len(named) > 1:
            raise DataError(f"{true[key]}: several predictions are called so: {', '.join(map(str, named))}")
        if named:
            pairs.append((true[key], named[0]))
        else:
            missing.append(key)
    if missing:
        names = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
        raise DataError(f"{predictions}: no prediction for {len(missing)} of {len(wanted)} true masks: {names}")
    return pairs


def evaluate_folders(
    predictions: str | Path,
    truth: str | Path,
    classes: Sequence[str] | None = None,
    ids: Collection[str] | None = None,
) -> SegmentationScores:
    """Scores a folder of masks against a folder of true masks.

    Files are PNG masks, paired by their path below the folders or else by their name. Every true mask needs a
    prediction; predictions without truth do not count.

    Args:
        predictions: folder of predicted masks, searched with its subfolders.
        truth: folder of true masks, likewise.
        classes: names of the classes, background first; None counts the ids found and names them by number.
        ids: paths without suffix of the true masks to score, all by default.

    Raises:
        DataError: a folder is missing or empty, predictions are missing or ambiguous, sizes differ, an id belongs to no
            class, or no pixel has truth.
    """
    pairs = _pairs(Path(predictions), Path(truth), ids)
    names = tuple(classes) if classes is not None else tuple(_numbered_names(MAX_CLASSES))
    matrix = ConfusionMatrix(names)
    for true_path, predicted_path in pairs:
        true, predicted = read_mask(true_path), read_mask(predicted_path)
        if true.shape != predicted.shape:
            raise DataError(f"{predicted_path}: size {predicted.shape}, but {true_path} has {true.shape}")
        try:
            matrix.add(true, predicted)
        except DataError as error:
            raise DataError(f"{predicted_path} against {true_path}: {error}") from error
    if classes is None:
        used = matrix.counts.any(axis=1) | matrix.counts[:, :-1].any(axis=0)
        size = int(np.flatnonzero(used).max(initial=0)) + 1
        matrix = ConfusionMatrix(names[:size], np.hstack([matrix.counts[:size, :size], matrix.counts[:size, -1:]]))
    return matrix.scores()


def _numbered_names(size: int) -> list[str]:
    return [BACKGROUND_NAME, *(f"class {index}" for index in range(1, size))]
