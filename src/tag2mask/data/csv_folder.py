"""A folder of photographs with a table of their tags: the usual form of a user's own data.

The table is a CSV file whose header names at least `image_path` and `label`:

    image_path,label
    beach/0001.jpg,"dog,person"
    beach/0002.jpg,dog
    empty.jpg,

Paths are relative to the folder. Several labels stand in one field, separated by commas (in quotation marks then),
semicolons or bars; an empty label says that nothing of interest is in the photograph. Instead of a column `label` there
may be one column per class with cells of 1 (or true) and 0 (or false, or empty):

    image_path,cat,dog
    beach/0001.jpg,0,1

Optional columns: `mask_path` (a true mask, inside the folder too, possibly empty) and `split` (`train` or `val`).
Columns without a name do not count. Fields are separated by commas, semicolons or tabs, as the header shows. The file
is UTF-8, with or without a byte order mark, or UTF-16 with one.

An optional `classes.txt`, one name per line, fixes the classes and their order; labels are then names or numbers from
1, and columns of classes have just these names. Without it the classes are the columns in their order, or else the
labels found, in alphabetical order, numbers being names like any other (in numerical order when all labels are
numbers).
"""

import contextlib
import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import get_args

import numpy as np

from tag2mask.base.text import plural
from tag2mask.data.masks import MaskFile
from tag2mask.data.problems import Problem, Report, raise_problem
from tag2mask.data.records import (
    CLASSES_FILE,
    Record,
    SplitName,
    assemble,
    found_class_names,
    is_photograph,
    named_classes,
    read_text,
    stays_inside,
)
from tag2mask.data.samples import Dataset, Split, is_background, no_class_name
from tag2mask.errors import DataError, SettingsError, unknown_choice

DEFAULT_HOLD_OUT = 0.1
"""Share of the photographs that a run sets aside where nothing says otherwise."""

TOO_FEW = "too few photographs to hold any out; more photographs, a larger --hold_out or a val list are needed"
"""What is wrong with a data set of which `hold_out` cannot hold anything out."""

USUAL_TABLES = ("labels.csv", "tags.csv")
"""Names by which the table is known when a folder holds several CSV files."""

_HEADERS = {
    "image_path": ("image_path", "filename", "file_name", "file", "image", "path"),
    "label": ("label", "labels", "tags"),
    "mask_path": ("mask_path",),
    "split": ("split",),
}
"""Columns, and the headers by which each is known."""

_DELIMITERS = ",;\t"
_LABEL_SEPARATORS = re.compile("[,;|]")
_CELLS = {"": False, "0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
_SPLITS: tuple[SplitName, ...] = get_args(SplitName)
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
    split: SplitName | None


@dataclass(frozen=True)
class LabelTable:
    """A tag table; iterates over its rows.

    Attributes:
        path: the file.
        rows: the rows that can be used.
        classes: the classes that have a column of their own, in their order; None when there is a column of labels.
        left_out: `image_path` of the rows that cannot be used, where it is known.
    """

    path: Path
    rows: tuple[LabelRow, ...]
    classes: tuple[str, ...] | None
    left_out: tuple[str, ...]

    def __iter__(self) -> Iterator[LabelRow]:
        return iter(self.rows)


class _BadRow(Exception):
    """What is wrong with a row."""


@dataclass(frozen=True)
class _Header:
    """Where the columns of a table are: those of a fixed meaning by their names, and those of classes by theirs."""

    length: int
    columns: dict[str, int]
    classes: dict[str, int]

    def labels(self, fields: Sequence[str]) -> tuple[str, ...]:
        """Labels of a row.

        Raises:
            _BadRow: a class has a cell that is neither 0 nor 1.
        """
        if "label" in self.columns:
            labels = (label.strip() for label in _LABEL_SEPARATORS.split(fields[self.columns["label"]]))
            return tuple(dict.fromkeys(label for label in labels if label))
        found = []
        for name, index in self.classes.items():
            cell = fields[index].strip()
            if cell.lower() not in _CELLS:
                raise _BadRow(
                    f"column '{name}' holds '{cell}', but 0 or 1 is expected "
                    "(without a column 'label' every column is a class)"
                )
            if _CELLS[cell.lower()]:
                found.append(name)
        return tuple(found)


def _image_path(text: str) -> str:
    return text.strip().replace("\\", "/").removeprefix("./")


def _is_image_column(name: str) -> bool:
    return name.strip().lower() in _HEADERS["image_path"]


def _read_header(fields: Sequence[str], path: Path) -> _Header:
    names = [name.strip() for name in fields]
    columns = {}
    for column, headers in _HEADERS.items():
        found = [index for index, name in enumerate(names) if name.lower() in headers]
        # The column's own name goes before its other names.
        found = [index for index in found if names[index].lower() == column] or found
        if len(found) > 1:
            several = " and ".join(f"'{names[index]}'" for index in found)
            raise DataError(f"{path}: the columns {several} of the header could both be {column}; keep one of them")
        if found:
            columns[column] = found[0]
    classes: dict[str, int] = {}
    if "label" not in columns:
        for index, name in enumerate(names):
            if name and index not in columns.values():
                if is_background(name):
                    raise DataError(f"{path}: the header: {no_class_name(name)}; take the column out")
                if name in classes:
                    raise DataError(f"{path}: the header names the class '{name}' twice")
                classes[name] = index
    if "image_path" not in columns or not ("label" in columns or classes):
        raise DataError(
            f"{path}: the header must name the columns image_path and label, or image_path and one column per class; "
            f"found: {', '.join(names) or 'nothing'}"
        )
    return _Header(len(fields), columns, classes)


def _delimiter(text: str) -> str:
    """The separator with which the header has a column of photographs beside others."""
    for delimiter in _DELIMITERS:
        with contextlib.suppress(csv.Error):
            fields = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
            if len(fields) > 1 and any(map(_is_image_column, fields)):
                return delimiter
    return _DELIMITERS[0]


def _read_row(fields: Sequence[str], header: _Header, where: str) -> LabelRow:
    if len(fields) != header.length:
        raise _BadRow(
            f"{len(fields)} fields, but the header has {header.length}; "
            "several labels belong into one field in quotation marks"
        )
    values = {name: fields[index].strip() for name, index in header.columns.items()}
    if not values["image_path"]:
        raise _BadRow("image_path is empty")
    split = next((name for name in _SPLITS if name == values.get("split", "").lower()), None)
    if split is None and "split" in values:
        raise _BadRow(unknown_choice("split", values["split"], _SPLITS))
    return LabelRow(
        where=where,
        image_path=_image_path(values["image_path"]),
        labels=header.labels(fields),
        mask_path=values.get("mask_path", "").replace("\\", "/") or None,
        split=split,
    )


def read_label_table(path: Path, report: Report = raise_problem) -> LabelTable:
    """Reads a tag table (see the module's description); nothing is looked up on disk.

    Args:
        path: the file.
        report: takes rows with too few or too many fields, without a path, with a split other than train and val, or
            with a cell of a class that is neither 0 nor 1 (kind ``"bad-row"``); they are left out if it returns.

    Raises:
        DataError: the file cannot be read, is no text or no CSV, lacks a column or has two that mean the same, has no
            rows, has a column called background where columns are classes, or a row is bad and `report` raises.
    """
    text = read_text(path)
    rows: list[LabelRow] = []
    left_out: list[str] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    try:
        header = _read_header(next(reader, []), path)
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue  # blank lines, and the ",," that spreadsheets leave behind
            where = f"{path} line {reader.line_num}"
            try:
                rows.append(_read_row(fields, header, where))
            except _BadRow as error:
                left_out += [_image_path(field) for field in fields[header.columns["image_path"] :][:1]]
                report(Problem("bad-row", f"{where}: {error}"))
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num}: not a proper CSV file ({error})") from error
    if not rows and not left_out:
        raise DataError(f"{path}: no rows under the header")
    return LabelTable(path, tuple(rows), tuple(header.classes) or None, tuple(left_out))


def find_label_table(root: Path, val_csv: Path | None = None) -> Path:
    """The tag table of a folder: its only CSV file, or else the one called `labels.csv` or `tags.csv`.

    Args:
        root: the folder.
        val_csv: a file that is not meant, being the table of the photographs to measure on.

    Raises:
        DataError: there is none, or more than one could be meant.
    """
    # Not by the spelling of a path: links and relative paths have several.
    other = None if val_csv is None else val_csv.resolve()
    tables = sorted(path for path in root.glob("*.csv") if path.is_file() and path.resolve() != other)
    if not tables:
        raise DataError(f"{root}: no CSV file with the tags (columns image_path, label) in this folder")
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


def class_names(root: Path, tables: Sequence[LabelTable]) -> tuple[str, ...] | None:
    """Foreground class names of a data set with tag tables: `classes.txt`, else the columns of the first table.

    Args:
        root: folder that may hold `classes.txt`.
        tables: the tag tables.

    Returns:
        the names; None without `classes.txt` where a table has a column of labels: they are the labels then.

    Raises:
        DataError: the columns of a table are not the names of `classes.txt`, or not those of the first table.
    """
    columns = [(table.path, table.classes) for table in tables if table.classes is not None]
    names, source = named_classes(root), root / CLASSES_FILE
    if names is None and columns and len(columns) == len(tables):
        source, names = columns[0]
    if names is None:
        return None
    for path, classes in columns:
        for name in classes:
            if name not in names:
                raise DataError(f"{path}: the column '{name}' is no class of {source}")
        for name in names:
            if name not in classes:
                raise DataError(f"{path}: no column for the class '{name}' of {source}")
    return names


def _record(root: Path, row: LabelRow, report: Report) -> Record | None:
    """The photograph of a row, or None if it cannot be used."""
    relative = PurePosixPath(row.image_path)
    if not stays_inside(row.image_path):
        report(Problem("unsafe-id", f"{row.where}: '{row.image_path}' must be a path inside {root}"))
        return None
    image = root / relative
    if not image.is_file():
        report(Problem("missing-photograph", f"{row.where}: there is no photograph {image}"))
        return None
    mask = None
    if row.mask_path is not None and not stays_inside(row.mask_path):
        report(Problem("unsafe-id", f"{row.where}: the mask '{row.mask_path}' must be a path inside {root}"))
    elif row.mask_path is not None:
        mask = MaskFile(root / row.mask_path)
        if not mask.path.is_file():
            report(Problem("missing-mask", f"{row.where}: there is no mask {mask}"))
            mask = None
    return Record(row.where, str(relative.with_suffix("")), image, row.labels, mask, row.split or "train")


def _report_unlisted(root: Path, tables: Sequence[LabelTable], records: Sequence[Record], report: Report) -> None:
    """Reports photographs that lie beside photographs with a row and have none."""
    # Rows and masks that were found wanting are accounted for already.
    paths = [path for table in tables for path in table.left_out]
    for row in (row for table in tables for row in table):
        paths += [row.image_path, *([row.mask_path] if row.mask_path else [])]
    known = {root / path for path in paths}
    # Only folders that hold a listed photograph are looked through: others may hold masks or results.
    missing = [
        path
        for folder in sorted({record.image.parent for record in records})
        for path in sorted(folder.iterdir())
        if is_photograph(path) and path not in known
    ]
    names = ", ".join(str(path.relative_to(root)) for path in missing[:_NAMED])
    table, hint = tables[0].path, "a photograph of background only needs a row with an empty label"
    summary = (
        f"{table}: no row for {len(missing)} {plural(len(missing), 'photograph')} "
        f"({names}{', ...' if len(missing) > _NAMED else ''}); {hint}"
    )
    for path in missing:
        report(Problem("no-row", f"{path}: no row in {table}; {hint}", summary))


def read_csv_folder(
    root: str | Path,
    *,
    labels_csv: str | Path | None = None,
    val_csv: str | Path | None = None,
    report: Report = raise_problem,
) -> Dataset:
    """Reads a folder of photographs with a tag table (see the module's description).

    The id of a photograph is its path relative to the folder, without suffix.

    Args:
        root: the folder.
        labels_csv: the table, relative to the folder or the working directory; None takes the folder's only CSV
            file, or the one called `labels.csv` or `tags.csv`.
        val_csv: a second table, of the photographs to measure on; instead of a column `split`.
        report: takes what is wrong with single rows and photographs.

    Returns:
        the data set; `val` is None when neither a second table nor a column `split` names photographs for it
        (see `hold_out`).

    Raises:
        DataError: the table is unusable, or `val` is given twice; or, unless `report` returns, a row is bad, its
            photograph or mask is missing, a photograph beside the listed ones has no row, a label is no class, or two
            photographs share an id.
    """
    root = Path(root)
    val_table = None if val_csv is None else table_file(root, val_csv)
    table = read_label_table(
        find_label_table(root, val_table) if labels_csv is None else table_file(root, labels_csv), report
    )
    tables = [table]
    if val_table is not None:
        if any(row.split == "val" for row in table):
            raise DataError(f"{table.path}: rows of split val, although {val_table} was named for them")
        measured = read_label_table(val_table, report)
        tables.append(replace(measured, rows=tuple(replace(row, split="val") for row in measured)))
    rows = [row for table in tables for row in table]
    if rows and all(row.split == "val" for row in rows):
        raise DataError(f"{table.path}: every row is of split val, none is left to train on")

    classes = class_names(root, tables) or found_class_names(label for row in rows for label in row.labels)
    records = [record for row in rows if (record := _record(root, row, report))]
    _report_unlisted(root, tables, records, report)
    return assemble(root, "csv", classes, records, report)


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
