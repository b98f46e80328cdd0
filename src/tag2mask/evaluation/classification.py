"""Quality of image-level scores: average precision per class and its mean."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class ClassificationScores:
    """Average precision of a multi-label classifier.

    Attributes:
        classes: names of the classes.
        average_precision: per class, within 0..1; None for a class without a positive.
        mean_average_precision: mean of those that are defined; None if none is.
    """

    classes: tuple[str, ...]
    average_precision: tuple[float | None, ...]
    mean_average_precision: float | None

    def to_dict(self) -> dict[str, object]:
        """The scores as JSON can hold them, those per class by class name."""
        return {
            "mean_average_precision": self.mean_average_precision,
            "average_precision": dict(zip(self.classes, self.average_precision, strict=True)),
        }


def average_precision(scores: npt.ArrayLike, targets: npt.ArrayLike) -> float | None:
    """Area under the step-shaped precision-recall curve of one class.

    AP = sum over n of (R_n - R_(n-1)) P_n, where n runs over the distinct scores from the highest, and P_n and R_n
    are precision and recall when every image of at least that score is taken as positive. Images of equal score thus
    enter together, and their order does not matter. This is scikit-learn's definition; VOC's own code interpolates
    the precision and gives slightly more.

    Args:
        scores: shape (N,), larger for positives.
        targets: shape (N,), 1 (or True) for positives, else 0.

    Returns:
        the area, within 0..1; None without a positive.

    Raises:
        ValueError: the shapes differ, a score is NaN, or a target is neither 0 nor 1.
    """
    values, truth = np.asarray(scores), np.asarray(targets)
    if values.ndim != 1 or values.shape != truth.shape:
        raise ValueError(f"scores of shape {values.shape} and targets of shape {truth.shape}")
    if np.isnan(values).any():
        raise ValueError("a score is NaN")
    if not np.isin(truth, (0, 1)).all():
        raise ValueError("a target is neither 0 nor 1")
    positives = int(truth.sum())
    if positives == 0:
        return None
    order = np.argsort(-values, kind="stable")
    ranked = values[order]
    last_of_ties = np.append(ranked[1:] != ranked[:-1], True)
    hits = np.cumsum(truth[order].astype(np.int64))[last_of_ties]
    taken = np.flatnonzero(last_of_ties) + 1
    return float(np.sum(np.diff(hits, prepend=0) * hits / taken) / positives)


def classification_scores(
    scores: npt.ArrayLike, targets: npt.ArrayLike, classes: Sequence[str]
) -> ClassificationScores:
    """Average precision of every class and their mean (mAP).

    Args:
        scores: shape (N, C), logits or probabilities.
        targets: shape (N, C), 1 where the image is tagged with the class, else 0.
        classes: names of the C foreground classes.

    Raises:
        ValueError: the shapes do not belong together, a score is NaN, or a target is neither 0 nor 1.
    """
    values, truth = np.asarray(scores), np.asarray(targets)
    if values.ndim != 2 or values.shape != truth.shape or values.shape[1] != len(classes):
        raise ValueError(f"scores {values.shape} and targets {truth.shape} for {len(classes)} classes")
    per_class = tuple(average_precision(*columns) for columns in zip(values.T, truth.T, strict=True))
    defined = [score for score in per_class if score is not None]
    return ClassificationScores(tuple(classes), per_class, float(np.mean(defined)) if defined else None)
