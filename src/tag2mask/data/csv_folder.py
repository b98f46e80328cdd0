"""A folder of photographs with a table of their tags: the usual form of a user's own data.

The table is a CSV file in UTF-8 whose header names at least `image_path` and `label`:

    image_path,label
    beach/0001.jpg,"dog,person"
    beach/0002.jpg,dog
    empty.jpg,

Paths are relative to the folder. Several labels stand in one quoted field, separated by commas or semicolons; an
empty label says that nothing of interest is in the photograph. Optional columns: `mask_path` (a true mask, relative to
the folder too, possibly empty) and `split` (`train` or `val`).

An optional `classes.txt`, one name per line, fixes the classes and their order; labels are then names or numbers from
1. Without it the classes are the labels found, in alphabetical order, numbers being names like any other (in
numerical order when all labels are numbers).
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from tag2mask.data.images import IMAGE_SUFFIXES
from tag2mask.data.masks import MaskFile
from tag2mask.data.samples import Dataset, Sample, Split
from tag2mask.errors import DataError, SettingsError, unknown_choice

CLASSES_FILE = "classes.txt"
USUAL_TABLES = ("labels.csv", "tags.csv")
"""Names by which the table is known when a folder holds several CSV files."""

_REQUIRED = ("image_path", "label")
_OPTIONAL = ("mask_path", "split")
_SPLITS = ("train", "val")
_NAMED = 3  # how many files an error names before it only counts


@dataclass(frozen=True)
class LabelRow:
    """One row of a tag table.

    Attributes:
        where: file and line, for messages.
        image_path: as written, with forward slashes and without a leading ``./``.
        labels: the labels as written, without duplicates.
        mask_path: as written, or None when there is none.
        split: ``"train"``, ``"val"`` or None when the table has no such column.
    """

    where: str
    image_path: str
    labels: tuple[str, ...]
    mask_path: str | None
    split: str | None


def read_text(path: Path) -> str:
    """Text of a UTF-8 file, with or without byte order mark.

    Raises:
        DataError: the file is missing, unreadable or not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def read_class_names(path: Path) -> tuple[str, ...]:
    """Foreground class names of a file with one name per line; blank lines do not count.

    Raises:
        DataError: the file cannot be read or names nothing.
    """
    names = tuple(line.strip() for line in read_text(path).splitlines() if line.strip())
    if not names:
        raise DataError(f"{path}: no class name in it")
    return names


def found_class_names(labels: Iterable[str]) -> tuple[str, ...]:
    """Class names of a data set without `classes.txt`: the labels found, in numerical order if all are numbers."""
    names = sorted(set(labels))
    return tuple(sorted(names, key=int) if all(name.isdecimal() for name in names) else names)


def tag_ids(labels: Sequence[str], classes: Sequence[str], where: str) -> tuple[int, ...]:
    """Ascending class ids (from 1) of labels that are class names or, failing that, class numbers.

    Args:
        labels: names or numbers from 1.
        classes: foreground class names.
        where: file and line, for messages.

    Raises:
        DataError: a label is neither.
    """
    ids = set()
    for label in labels:
        if label in classes:
            ids.add(classes.index(label) + 1)
        elif label.isdecimal() and 1 <= int(label) <= len(classes):
            ids.add(int(label))
        else:
            numbers = f"1 to {len(classes)}"
            raise DataError(
                f"{where}: {unknown_choice('class', label, classes)}; or {numbers}; or nothing (background)"
            )
    return tuple(sorted(ids))


def _columns(header: Sequence[str], path: Path) -> dict[str, int]:
    names = [name.strip().lower() for name in header]
    if any(names.count(name) != 1 for name in _REQUIRED) or any(names.count(name) > 1 for name in _OPTIONAL):
        raise DataError(
            f"{path}: the header must name the columns {' and '.join(_REQUIRED)} once each, separated by commas; "
            f"found: {', '.join(header) or 'nothing'}"
        )
    return {name: names.index(name) for name in (*_REQUIRED, *_OPTIONAL) if name in names}


def read_label_table(path: Path) -> list[LabelRow]:
    """Rows of a tag table (see the module's description); nothing is looked up on disk.

    Raises:
        DataError: the file cannot be read, is not UTF-8 or no CSV, lacks a column, has no rows, or a row has too
            few or too many fields, no path or a split other than train and val.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    rows: list[LabelRow] = []
    try:
        header = next(reader, [])
        columns = _columns(header, path)
        for fields in reader:
            where = f"{path} line {reader.line_num}"
            if not any(field.strip() for field in fields):
                continue  # blank lines, and the ",," that spreadsheets leave behind
            if len(fields) != len(header):
                raise DataError(
                    f"{where}: {len(fields)} fields, but the header has {len(header)}; "
                    "several labels belong into one field in quotation marks"
                )
            values = {name: fields[index].strip() for name, index in columns.items()}
            if not values["image_path"]:
                raise DataError(f"{where}: image_path is empty")
            split = values["split"].lower() if "split" in values else None
            if split is not None and split not in _SPLITS:
                raise DataError(f"{where}: {unknown_choice('split', split, _SPLITS)}")
            labels = [label.strip() for label in re.split("[,;]", values["label"])]
            rows.append(
                LabelRow(
                    where=where,
                    image_path=values["image_path"].replace("\\", "/").removeprefix("./"),
                    labels=tuple(dict.fromkeys(label for label in labels if label)),
                    mask_path=values.get("mask_path", "").replace("\\", "/") or None,
                    split=split,
                )
            )
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num}: not a proper CSV file ({error})") from error
    if not rows:
        raise DataError(f"{path}: no rows under the header")
    return rows


def find_label_table(root: Path, val_csv: Path | None = None) -> Path:
    """The tag table of a folder: its only CSV file, or else the one called `labels.csv` or `tags.csv`.

    Args:
        root: the folder.
        val_csv: a file that is not meant, being the table of the photographs to measure on.

    Raises:
        DataError: there is none, or more than one could be meant.
    """
    tables = sorted(path for path in root.glob("*.csv") if path.is_file() and path != val_csv)
    if not tables:
        raise DataError(f"{root}: no CSV file with the tags (columns {', '.join(_REQUIRED)}) in this folder")
    usual = [path for path in tables if path.name in USUAL_TABLES]
    candidates = tables if len(tables) == 1 else usual
    if len(candidates) != 1:
        names = ", ".join(path.name for path in tables)
        raise DataError(f"{root}: several CSV files could hold the tags, name one of them: {names}")
    return candidates[0]


def table_file(root: Path, name: str | Path) -> Path:
    """A table named relative to the folder or, failing that, to where the program runs."""
    for path in (root / name, Path(name)):
        if path.is_file():
            return path
    raise DataError(f"{name}: there is no such table, neither in {root} nor in the working directory")


def _sample(root: Path, row: LabelRow, classes: Sequence[str]) -> Sample:
    relative = PurePosixPath(row.image_path)
    if relative.is_absolute() or ".." in relative.parts:
        raise DataError(f"{row.where}: '{row.image_path}' must be a path inside {root}")
    image = root / relative
    if not image.is_file():
        raise DataError(f"{row.where}: there is no photograph {image}")
    mask = None if row.mask_path is None else MaskFile(root / row.mask_path)
    if mask is not None and not mask.path.is_file():
        raise DataError(f"{row.where}: there is no mask {mask}")
    return Sample(str(relative.with_suffix("")), image, tag_ids(row.labels, classes, row.where), mask)


def _check_rows(root: Path, rows: Sequence[LabelRow], samples: Sequence[Sample], table: Path) -> None:
    """Raises if a photograph has two rows, or lies beside photographs with a row and has none."""
    first: dict[Path, LabelRow] = {}
    for row, sample in zip(rows, samples, strict=True):
        other = first.setdefault(sample.image, row)
        if other is not row:
            raise DataError(f"{row.where}: '{row.image_path}' has a row already ({other.where})")
    # Only folders that hold a listed photograph are looked through: others may hold masks or results.
    known = {*first, *(sample.mask.path for sample in samples if isinstance(sample.mask, MaskFile))}
    folders = sorted({image.parent for image in first})
    missing = [
        path
        for folder in folders
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path not in known
    ]
    if missing:
        names = ", ".join(str(path.relative_to(root)) for path in missing[:_NAMED])
        raise DataError(
            f"{table}: no row for {len(missing)} photographs ({names}{', ...' if len(missing) > _NAMED else ''}); "
            "a photograph of background only needs a row with an empty label"
        )


def read_csv_folder(
    root: str | Path, *, labels_csv: str | Path | None = None, val_csv: str | Path | None = None
) -> Dataset:
    """Reads a folder of photographs with a tag table (see the module's description).

    The id of a photograph is its path relative to the folder, without suffix.

    Args:
        root: the folder.
        labels_csv: the table, relative to the folder or the working directory; None takes the folder's only CSV
            file, or the one called `labels.csv` or `tags.csv`.
        val_csv: a second table, of the photographs to measure on; instead of a column `split`.

    Returns:
        the data set; `val` is None when neither a second table nor a column `split` names photographs for it
        (see `hold_out`).

    Raises:
        DataError: the table is unusable, a row's photograph or mask is missing, a photograph beside the listed ones
            has no row, a label is no class, two photographs share an id, or `val` is given twice.
    """
    root = Path(root)
    val_table = None if val_csv is None else table_file(root, val_csv)
    table = find_label_table(root, val_table) if labels_csv is None else table_file(root, labels_csv)
    rows = read_label_table(table)
    if val_table is not None:
        if any(row.split == "val" for row in rows):
            raise DataError(f"{table}: rows of split val, although {val_table} was named for them")
        rows = [replace(row, split="train") for row in rows]
        rows += [replace(row, split="val") for row in read_label_table(val_table)]

    named = root / CLASSES_FILE
    classes = (
        read_class_names(named) if named.is_file() else found_class_names(label for row in rows for label in row.labels)
    )
    samples = [_sample(root, row, classes) for row in rows]
    _check_rows(root, rows, samples, table)
    val = tuple(sample for row, sample in zip(rows, samples, strict=True) if row.split == "val")
    train = tuple(sample for row, sample in zip(rows, samples, strict=True) if row.split != "val")
    if not train:
        raise DataError(f"{table}: every row is of split val, none is left to train on")
    return Dataset(root, classes, Split("train", train), Split("val", val) if val else None)


def hold_out(dataset: Dataset, fraction: float, seed: int) -> Dataset:
    """Sets a part of the training photographs aside, so that the classifier can be scored on unseen ones.

    The part is drawn class by class, the rarest class first, until each class has its fraction (rounded, and always
    leaving one to train on); no class gets more than its share, and photographs without tags have a share like a
    class. Only ids, tags, fraction and seed decide, not the order of the list.

    Args:
        dataset: a data set without `val`.
        fraction: share of the photographs to set aside, between 0 and 1.
        seed: seed of the draw, not negative.

    Returns:
        the data set split into train and val (named "held-out"); unchanged if it is too small for a single photograph
        to be set aside.

    Raises:
        SettingsError: the fraction or the seed is out of range.
        DataError: the data set has `val` already.
    """
    if not 0 < fraction < 1:
        raise SettingsError(f"hold-out fraction {fraction} is not between 0 and 1")
    if seed < 0:
        raise SettingsError(f"seed {seed} is negative")
    if dataset.val is not None:
        raise DataError(f"{dataset.root}: has photographs to measure on already, none need be held out")

    no_tag = 0
    shares = {sample.id: sample.tags or (no_tag,) for sample in dataset.train}
    counts = np.bincount([tag for tags in shares.values() for tag in tags], minlength=dataset.num_classes + 1)
    quota = np.minimum(np.floor(fraction * counts + 0.5).astype(int), np.maximum(counts - 1, 0))
    ids = sorted(shares)
    drawn = [ids[index] for index in np.random.default_rng(seed).permutation(len(ids))]
    held: set[str] = set()
    for label in np.argsort(counts, kind="stable"):
        for sample_id in drawn:
            tags = list(shares[sample_id])
            if label in tags and sample_id not in held and (quota[tags] > 0).all():
                quota[tags] -= 1
                held.add(sample_id)
    if not held:
        return dataset
    return replace(
        dataset,
        train=Split(dataset.train.name, tuple(sample for sample in dataset.train if sample.id not in held)),
        val=Split("held-out", tuple(sample for sample in dataset.train if sample.id in held)),
    )
