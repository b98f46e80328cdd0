"""True masks held against what they belong to: the image's size and the classes."""

import numpy as np
import numpy.typing as npt

from tag2mask.data.classes import UNLABELLED
from tag2mask.data.problems import Problem, Report, raise_problem
from tag2mask.data.samples import Sample
from tag2mask.errors import DataError

FROM_TRUTH = "the GROUND TRUTH, masks of these very photographs"
"""Note with figures whose saliency is the ground truth."""


def read_true_mask(
    sample: Sample, size: tuple[int, int] | None, num_classes: int, report: Report = raise_problem
) -> npt.NDArray[np.uint8] | None:
    """Reads the true mask of an image that has one.

    Args:
        sample: the image, with its mask.
        size: height and width of the image, as it is shown; None when it cannot be read.
        num_classes: number of foreground classes.
        report: takes masks that cannot be read (kind ``"unreadable-mask"``), have another size than the image
            (``"mask-size"``) or ids that are no class (``"mask-class"``).

    Returns:
        class ids, uint8 of shape (H, W), 255 where unknown; if `report` returns, whatever the file holds, or None when
        it cannot be read. A mask that says its size beforehand is read only if that is the image's: it takes memory by
        its size, which may be a mistake.

    Raises:
        DataError: `report` raises.
    """
    mask = sample.mask
    assert mask is not None
    declared = mask.size()
    if declared is not None and declared != size:
        if size is not None:
            report(_misfit(sample, declared, size))
        return None
    try:
        ids = mask.read()
    except DataError as error:
        report(Problem("unreadable-mask", str(error)))
        return None
    strange = np.unique(ids[(ids > num_classes) & (ids != UNLABELLED)]).tolist()
    if strange:
        found = ", ".join(map(str, strange))
        report(Problem("mask-class", f"{mask}: {found} among the ids, but the last class is {num_classes}"))
    if size is not None and ids.shape != size:
        report(_misfit(sample, ids.shape, size))
    return ids


def _misfit(sample: Sample, found: tuple[int, ...], size: tuple[int, int]) -> Problem:
    (height, width), (of_height, of_width) = found, size
    of = f"its photograph {sample.image} has {of_width}x{of_height}"
    return Problem("mask-size", f"{sample.mask}: {width}x{height}, but {of}")
