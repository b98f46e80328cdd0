"""Writes the study's page, and its tables as CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tag2mask.base.files import write_bytes
from tag2mask.study.figures import Figure
from tag2mask.study.page import write_study_page
from tag2mask.study.superpixels.contenders import Row

COLUMNS = {
    "superpixels": "superpixels",
    "undersegmentation_error": "UE",
    "boundary_precision": "BP",
    "boundary_recall": "BR",
    "achievable_accuracy": "ASA",
}
"""Scores in the tables and their headings."""

_BOUNDARIES = ("boundary_precision", "boundary_recall")


def headings() -> list[str]:
    """Headings of a table of rows."""
    return ["method", "setting", "photographs", *COLUMNS.values(), *(f"{COLUMNS[score]}, 255" for score in _BOUNDARIES)]


def cells(row: Row) -> list[str]:
    """A row's cells as text; a score that is undefined is a dash."""
    scores = [(score, "labelled") for score in COLUMNS] + [(score, "with_unlabelled") for score in _BOUNDARIES]
    values = [row.score(score, rule) for score, rule in scores]
    return [
        row.name,
        row.setting,
        str(row.photographs),
        *(
            "-" if value is None else f"{value:.2f}" if score == "superpixels" else f"{value:.3f}"
            for (score, _), value in zip(scores, values, strict=True)
        ),
    ]


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Writes rows as CSV; those that were not run have their note in place of the setting."""
    content = io.StringIO(newline="")
    writer = csv.writer(content)
    writer.writerow(headings())
    for row in rows:
        writer.writerow([row.name, row.note] if row.note else cells(row))
    write_bytes(path, content.getvalue().encode())


def write_page(
    path: Path,
    *,
    about: Mapping[str, str],
    notes: Sequence[str],
    tables: Mapping[str, Sequence[Row]],
    compared: Sequence[Mapping[str, Any]],
    figures: Sequence[Figure],
    stages: Sequence[tuple[str, float]],
) -> None:
    """Writes the page atomically.

    Args:
        path: the HTML file.
        about: what was studied, as pairs of a name and a text.
        notes: what a reader has to know.
        tables: rows by the table's title.
        compared: what `tag2mask.study.superpixels.contenders.comparison` gives.
        figures: the pictures, which become part of the file.
        stages: name and seconds of each.
    """
    write_study_page(
        path,
        "superpixels/page.html.jinja",
        title="Superpixel study",
        about=about,
        notes=notes,
        figures=figures,
        stages=stages,
        filters={"cells": cells},
        headings=headings(),
        tables=tables,
        compared=compared,
    )
