"""A folder of photographs with a table of their tags: the usual form of a user's own data.

See `tag2mask.data.tag_table` for the table.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from tag2mask.base.text import plural
from tag2mask.data.masks import MaskFile
from tag2mask.data.problems import Problem, Report, raise_problem
from tag2mask.data.records import Record, assemble, found_class_names, is_photograph, stays_inside
from tag2mask.data.samples import Dataset
from tag2mask.data.tag_table import LabelRow, LabelTable, class_names, find_label_table, read_label_table, table_file
from tag2mask.errors import DataError

_NAMED = 3  # how many files an error names before it only counts


def _record(root: Path, row: LabelRow, report: Report) -> Record | None:
    """The image of a row, or None if it cannot be used."""
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
    """Reports images that lie beside images with a row and have none."""
    # Rows and masks that were found wanting are accounted for already.
    paths = [path for table in tables for path in table.left_out]
    for row in (row for table in tables for row in table):
        paths += [row.image_path, *([row.mask_path] if row.mask_path else [])]
    known = {root / path for path in paths}
    # Only folders that hold a listed image are looked through: others may hold masks or results.
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
    """Reads a folder of images with a tag table (see the module's description).

    The id of an image is its path relative to the folder, without suffix.

    Args:
        root: the folder.
        labels_csv: the table, relative to the folder or the working directory; None takes the folder's only CSV
            file, or the one called `labels.csv` or `tags.csv`.
        val_csv: a second table, of the images to measure on; instead of a column `split`.
        report: takes what is wrong with single rows and images.

    Returns:
        the data set; `val` is None when neither a second table nor a column `split` names images for it
        (see `hold_out`).

    Raises:
        DataError: the table is unusable, or `val` is given twice; or, unless `report` returns, a row is bad, its image
            or mask is missing, an image beside the listed ones has no row, a label is no class, or two images share an
            id.
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
