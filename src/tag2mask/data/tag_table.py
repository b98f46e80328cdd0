"""Tables of photographs and their tags.

A table is a CSV file whose header names at least `image_path` and `label`:

    image_path,label
    beach/0001.jpg,"dog,person"
    beach/0002.jpg,dog
    empty.jpg,

Paths are relative to the folder of the photographs. Several labels stand in one field, separated by commas (in
quotation marks then), semicolons or bars; an empty label says that nothing of interest is in the photograph. Instead of
a column `label` there may be one column per class with cells of 1 (or true) and 0 (or false, or empty):

    image_path,cat,dog
    beach/0001.jpg,0,1

Optional columns: `mask_path` (a true mask, inside the folder too, possibly empty) and `split` (`train` or `val`).
Columns without a name do not count. Fields are separated by commas, semicolons or tabs, as the header shows. The file
is UTF-8, with or without a byte order mark, or UTF-16 with one.

An optional `classes.txt` in the folder, one name per line, fixes the classes and their order; labels are then names or
numbers from 1, and columns of classes have just these names. Without it the classes are the columns in their order, or
else the labels found, in alphabetical order, numbers being names like any other (in numerical order when all labels are
numbers).
"""

import contextlib
import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from tag2mask.data.problems import Problem, Report, raise_problem
from tag2mask.data.records import CLASSES_FILE, SplitName, named_classes, read_text
from tag2mask.data.samples import is_background, no_class_name
from tag2mask.errors import DataError, unknown_choice

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
    """Fault of a row."""


@dataclass(frozen=True)
class _Header:
    """Positions of the columns of a table: those of a fixed meaning by their names, and those of classes by theirs."""

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
    """The separator with which the header has a column of images beside others."""
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
        val_csv: a file that is not meant, being the table of the images to measure on.

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
