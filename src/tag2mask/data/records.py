"""Parts that the readers of all layouts share: texts, names of classes, and the step from records to a data set."""

import codecs
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from tag2mask.data.images import IMAGE_SUFFIXES
from tag2mask.data.problems import Problem, Report, raise_problem
from tag2mask.data.samples import Dataset, Sample, Split, TrueMask, check_id, is_background, no_class_name
from tag2mask.errors import DataError, unknown_choice

CLASSES_FILE = "classes.txt"

SplitName = Literal["train", "val"]

DEFAULT_TRAIN_LIST = "train"
DEFAULT_VAL_LIST = "val"
"""Lists by name; one to measure on is read if it is there, one that the user names has to be."""


@dataclass(frozen=True)
class Record:
    """One image as a reader found it, not yet compared with the others.

    Attributes:
        where: file and line, for messages.
        id: path of the image relative to its image folder, without suffix, with forward slashes.
        image: its file, which is there.
        labels: names of classes, or numbers from 1.
        mask: its true mask, or None.
        split: list it belongs to.
        tagged: file and line of its labels, for messages, where these are not in `where`.
    """

    where: str
    id: str
    image: Path
    labels: tuple[str, ...]
    mask: TrueMask | None
    split: SplitName
    tagged: str | None = None


def read_text(path: Path) -> str:
    """Text of a file in UTF-8, with or without byte order mark, or in UTF-16 with one.

    Raises:
        DataError: the file is missing, unreadable or in another encoding.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    data, encoding = (data, "utf-16") if wide else (data.removeprefix(codecs.BOM_UTF8), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        text = data[: error.start].decode(encoding, errors="ignore") + "\0"
    # No text has a NUL; UTF-16 without its mark is full of them.
    good, bad, _ = text.partition("\0")
    if bad:
        raise DataError(f"{path} line {good.count(chr(10)) + 1}: not UTF-8 text; save the file as UTF-8")
    return text


def read_class_names(path: Path) -> tuple[str, ...]:
    """Foreground class names of a file with one name per line; blank lines do not count.

    Raises:
        DataError: the file cannot be read, names nothing, or names the background.
    """
    names = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if is_background(line.strip()):
            raise DataError(f"{path} line {number}: {no_class_name(line.strip())}; take the line out")
        names += [line.strip()] if line.strip() else []
    if not names:
        raise DataError(f"{path}: no class name in it")
    return tuple(names)


def named_classes(root: Path) -> tuple[str, ...] | None:
    """Foreground class names of the folder's `classes.txt`, or None without one.

    Raises:
        DataError: the file cannot be read, names nothing, or names the background.
    """
    path = root / CLASSES_FILE
    return read_class_names(path) if path.is_file() else None


def found_class_names(labels: Iterable[str]) -> tuple[str, ...]:
    """Class names of a data set without `classes.txt`: the labels found, in numerical order if all are numbers.

    "background" is left out: it is a mistake in the rows that have it, of which `tag_ids` tells.
    """
    names = sorted({label for label in labels if not is_background(label)})
    return tuple(sorted(names, key=int) if all(name.isdecimal() for name in names) else names)


def tag_ids(
    labels: Sequence[str], classes: Sequence[str], where: str, report: Report = raise_problem
) -> tuple[int, ...]:
    """Ascending class ids (from 1) of labels that are class names or, failing that, class numbers.

    Args:
        labels: names or numbers from 1.
        classes: foreground class names.
        where: file and line, for messages.
        report: takes labels that are neither, "background" among them (kind ``"unknown-class"``); they are left out if
            it returns.

    Raises:
        DataError: a label is neither, and `report` raises.
    """
    ids = set()
    for label in labels:
        if is_background(label):
            report(Problem("unknown-class", f"{where}: {no_class_name(label)}; leave the label empty"))
        elif label in classes:
            ids.add(classes.index(label) + 1)
        elif label.isdecimal() and 1 <= int(label) <= len(classes):
            ids.add(int(label))
        else:
            choices = f"{unknown_choice('class', label, classes)}; or 1 to {len(classes)}; or nothing (background)"
            report(Problem("unknown-class", f"{where}: {choices}"))
    return tuple(sorted(ids))


def stays_inside(path: str) -> bool:
    """True if a path with forward slashes, as a file of the data set names it, stays inside its folder."""
    pure = PurePosixPath(path)
    return not pure.is_absolute() and ".." not in pure.parts


def is_photograph(path: Path) -> bool:
    """True if a file counts as an image by its name: of a known suffix and not hidden."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def without_image_suffix(path: str) -> str:
    """A path with forward slashes, without its suffix if that is one of images (`2007_000032.jpg`, not `v1.2`)."""
    pure = PurePosixPath(path)
    return str(pure.with_suffix("")) if pure.suffix.lower() in IMAGE_SUFFIXES else path


def assemble(
    root: Path,
    layout: str,
    classes: Sequence[str],
    records: Iterable[Record],
    report: Report,
    *,
    train: str = "train",
    val: str = "val",
) -> Dataset:
    """A data set of the images that readers found.

    The same image may be on both lists if tags and mask are the same.

    Args:
        root: folder the data set was read from.
        layout: its layout.
        classes: foreground class names.
        records: the images, in the order of their lists.
        report: takes ids that are unsafe, images named twice, ids of two images and unknown classes. When it returns,
            the image is left out, in the last case the tag alone.
        train: name of the list to train on.
        val: name of the list to measure on.

    Returns:
        the data set; its `val` is None when no image is on that list.

    Raises:
        DataError: no image to train on is left, the class names are unusable, or `report` raises.
    """
    samples: dict[SplitName, list[Sample]] = {"train": [], "val": []}
    first: dict[str, tuple[Record, Sample]] = {}
    listed: set[tuple[SplitName, str]] = set()
    for record in records:
        try:
            check_id(record.id)
        except DataError as error:
            report(Problem("unsafe-id", f"{record.where}: {error}"))
            continue
        tags = tag_ids(record.labels, classes, record.tagged or record.where, report)
        sample = Sample(record.id, record.image, tags, record.mask)
        other, same = first.setdefault(record.id, (record, sample))
        if same.image != sample.image:
            both = f"two photographs share the id '{record.id}': {same.image} and {sample.image}"
            report(Problem("duplicate-id", f"{record.where}: {both}"))
        elif (record.split, record.id) in listed:
            report(Problem("duplicate-row", f"{record.where}: '{record.id}' is listed already ({other.where})"))
        elif same != sample:
            differs = f"'{record.id}' has other tags or another mask than in {other.where}"
            report(Problem("duplicate-row", f"{record.where}: {differs}"))
        else:
            listed.add((record.split, record.id))
            samples[record.split].append(sample)
    if not samples["train"]:
        raise DataError(f"{root}: the list '{train}' names no photograph that can be used")
    measured = Split(val, tuple(samples["val"])) if samples["val"] else None
    return Dataset(root, tuple(classes), Split(train, tuple(samples["train"])), measured, layout)
