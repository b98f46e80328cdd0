"""Tags as vectors: the `cls_labels.npy` that published code of this field keeps beside VOC's lists.

The file is a pickled dictionary from an image's name to its vector of 0 and 1, one number per foreground class. Names
are ids (`2007_000032`), file names (`2007_000032.jpg`), or numbers made of the id's digits (2007000032).

A pickle can run any code of whoever made it while it is being read; it is therefore read only when the user says so.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tag2mask.base.files import atomic_path
from tag2mask.data.problems import Problem, Report, raise_problem
from tag2mask.data.records import Record, without_image_suffix
from tag2mask.data.samples import Dataset
from tag2mask.errors import DataError, SettingsError

USUAL_VECTORS = "cls_labels.npy"
"""Name by which the file goes."""


def _read_vectors(path: Path) -> dict[str | int, Any]:
    """The dictionary of the file; names without suffix, numbers as int."""
    try:
        # The content is a dictionary that NumPy wraps in an array without dimensions.
        content = np.load(path, allow_pickle=True).item()
    except Exception as error:  # unpickling raises nearly every kind of exception on damaged files
        raise DataError(f"{path}: cannot be read as a dictionary of tag vectors ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: a dictionary from names to tag vectors is expected, not {type(content).__name__}")
    vectors: dict[str | int, Any] = {}
    for key, vector in content.items():
        if not isinstance(key, str | int | np.integer):
            raise DataError(f"{path}: the key {key!r} is neither a name nor a number")
        vectors[without_image_suffix(key) if isinstance(key, str) else int(key)] = vector
    return vectors


def _digits(sample_id: str) -> int | None:
    """The number made of an id's digits."""
    digits = re.sub("[^0-9]", "", sample_id)
    return int(digits) if digits else None


def _tags(vector: Any, path: Path, sample_id: str, classes: Sequence[str]) -> tuple[str, ...] | None:
    """Names of the classes a vector marks; None if it holds something other than 0 and 1."""
    try:
        values: npt.NDArray[np.float64] = np.asarray(vector, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    if values.shape != (len(classes),):
        raise DataError(
            f"{path}: the vector of '{sample_id}' has the shape {values.shape}, but there are {len(classes)} classes "
            "(background is none of them)"
        )
    if not np.isin(values, (0, 1)).all():
        return None
    return tuple(name for name, value in zip(classes, values, strict=True) if value)


def cls_labels(
    path: Path, records: Iterable[Record], classes: Sequence[str], allow_pickle: bool, report: Report = raise_problem
) -> Callable[[Record], tuple[str, ...] | None]:
    """Reads a file of tag vectors.

    Args:
        path: the file.
        records: all images that will be looked up.
        classes: foreground class names.
        allow_pickle: the user trusts the file.
        report: takes images without a vector or with one that holds something other than 0 and 1.

    Returns:
        function of an image that gives its labels, or None when there are none and that has been reported.

    Raises:
        SettingsError: `allow_pickle` is not set.
        DataError: the file cannot be read or holds something else, two of the images have one number; later, a vector
            has another length than there are classes, or `report` raises.
    """
    if not allow_pickle:
        raise SettingsError(
            f"{path}: a pickle, which can run any code when it is read; `--allow_pickle true` reads it if you trust "
            "where it comes from"
        )
    vectors = _read_vectors(path)
    numbers: dict[int, str] = {}
    if any(isinstance(key, int) for key in vectors):
        for record in records:
            number = _digits(record.id)
            if number is not None and numbers.setdefault(number, record.id) != record.id:
                raise DataError(f"{path}: '{record.id}' and '{numbers[number]}' have the same number, {number}")

    def labels(record: Record) -> tuple[str, ...] | None:
        number = _digits(record.id)
        key = record.id if record.id in vectors else number
        if key is None or key not in vectors:
            report(Problem("missing-tags", f"{record.where}: no vector for '{record.id}' in {path}"))
            return None
        tags = _tags(vectors[key], path, record.id, classes)
        if tags is None:
            report(Problem("bad-row", f"{path}: the vector of '{record.id}' holds something other than 0 and 1"))
        return tags

    return labels


def write_cls_labels(path: Path, dataset: Dataset) -> None:
    """Writes the tags of all images as vectors, float32 of shape (C,), under their ids.

    Raises:
        OSError: the file cannot be written.
    """
    vectors = {sample.id: dataset.tag_vector(sample) for split in dataset.splits for sample in split}
    with atomic_path(path) as aside, aside.open("wb") as file:
        np.save(file, np.array(vectors, dtype=object), allow_pickle=True)
