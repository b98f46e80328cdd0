"""Scores of a folder of masks."""

from collections.abc import Sequence
from pathlib import Path

from tag2mask.evaluation.segmentation import SegmentationScores, evaluate_folders


def evaluate(
    predictions: str | Path,
    truth: str | Path,
    *,
    classes: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
) -> SegmentationScores:
    """Scores a folder of masks against a folder of true masks, paired by name.

    Args:
        predictions: folder of palette PNGs.
        truth: folder of true masks; 255 is left out.
        classes: names of the foreground classes; numbers by default.
        ids: score these alone; by default every true mask needs a prediction.

    Raises:
        DataError: masks are missing or of different sizes.
    """
    names = ["background", *classes] if classes is not None else None
    return evaluate_folders(predictions, truth, names, ids)
