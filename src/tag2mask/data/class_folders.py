"""Photographs sorted into one folder per class, as collections for image classification are.

    cat/0001.jpg
    cat/indoors/0002.jpg
    dog/0001.jpg
    background/0001.jpg         nothing of interest in it
    classes.txt                 names and order of the classes, optional

Every photograph has the one tag that its folder names; for several tags there are tables. Lists to train and to measure
on are folders of this kind in `train` and `val`:

    train/cat/0001.jpg
    val/cat/0007.jpg

A folder `test` beside these is not read. What is hidden (a name that begins with a dot) does not count.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from tag2mask.data.problems import Problem, Report, raise_problem
from tag2mask.data.records import Record, SplitName, assemble, found_class_names, is_photograph, named_classes
from tag2mask.data.samples import Dataset, is_background
from tag2mask.errors import DataError

_TRAIN, _VAL, _TEST = "train", "val", "test"


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _loose(folder: Path) -> list[Path]:
    """Images directly in a folder."""
    return sorted(path for path in folder.iterdir() if is_photograph(path) and path.is_file())


def _photographs(folder: Path) -> Iterator[Path]:
    """Images in a folder and in folders below it."""
    for parent, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        yield from (path for name in sorted(names) if is_photograph(path := Path(parent, name)))


def _holds_photographs(folder: Path) -> bool:
    return next(_photographs(folder), None) is not None


def _has_lists(root: Path) -> bool:
    """True if `train` is a list of class folders and not a class of that name."""
    train = root / _TRAIN
    return (
        train.is_dir()
        and any(map(_holds_photographs, _folders(train)))
        and ((root / _VAL).is_dir() or not _loose(train))
    )


def has_class_folders(root: Path) -> bool:
    """True if a folder looks like this layout: images in its subfolders, but none directly in it."""
    return not _loose(root) and any(map(_holds_photographs, _folders(root)))


def _records(root: Path, home: Path, split: SplitName, report: Report) -> Iterator[Record]:
    """Images of the class folders in `home`."""
    for path in _loose(home):
        report(Problem("stray-file", f"{path}: lies beside the folders of classes, not in one of them"))
    for folder in _folders(home):
        empty = True
        labels = () if is_background(folder.name) else (folder.name,)
        for path in _photographs(folder):
            empty = False
            sample_id = path.relative_to(root).with_suffix("").as_posix()
            yield Record(str(path), sample_id, path, labels, None, split)
        if empty:
            report(Problem("empty-class", f"{folder}: no photograph in this folder of a class"))


def read_class_folders(root: str | Path, *, report: Report = raise_problem) -> Dataset:
    """Reads images that are sorted into one folder per class (see the module's description).

    The id of an image is its path relative to the folder, without suffix. Classes come from `classes.txt`, or else are
    the names of the folders that hold images, in alphabetical order (in numerical order if all are numbers).

    Args:
        root: folder of the class folders, or of `train` and `val`.
        report: takes images outside of class folders (kind ``"stray-file"``), folders beside `train` and `val` (the
            same), class folders without images (``"empty-class"``), and folders that are no class of `classes.txt`.

    Returns:
        the data set; `val` is None without such a folder.

    Raises:
        DataError: no class folder holds images; or, unless `report` returns, there is a problem.
    """
    root = Path(root)
    records: list[Record] = []
    if _has_lists(root):
        for path in _loose(root):
            report(Problem("stray-file", f"{path}: lies beside {_TRAIN} and {_VAL}, not in a folder of a class"))
        for folder in _folders(root):
            if folder.name == _TRAIN:
                records += _records(root, folder, "train", report)
            elif folder.name == _VAL:
                records += _records(root, folder, "val", report)
            elif folder.name != _TEST and _holds_photographs(folder):
                report(
                    Problem("stray-file", f"{folder}: photographs beside {_TRAIN} and {_VAL}, which hold the classes")
                )
    else:
        records += _records(root, root, "train", report)
    if not records:
        raise DataError(f"{root}: no photographs in folders named after their classes")
    classes = named_classes(root) or found_class_names(label for record in records for label in record.labels)
    return assemble(root, "folders", classes, records, report)
