"""Writes the study's page: one HTML file that opens anywhere and needs no network; and its tables as CSV."""

import base64
import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tag2mask.durations import duration
from tag2mask.files import write_bytes
from tag2mask.study.superpixels.contenders import Row
from tag2mask.study.superpixels.figures import Figure

COLUMNS = {
    "superpixels": "superpixels",
    "undersegmentation_error": "UE",
    "boundary_precision": "BP",
    "boundary_recall": "BR",
    "achievable_accuracy": "ASA",
}
"""Scores in the tables and their headings."""

_BOUNDARIES = ("boundary_precision", "boundary_recall")
_MEDIA_TYPES = {".png": "image/png", ".jpg": "image/jpeg"}


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
    environment = Environment(
        loader=PackageLoader(__package__, ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(duration=duration, cells=cells, data_url=_data_url)
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    text = environment.get_template("page.html.jinja").render(
        style=Markup(style),
        # Nothing can be fetched, and nothing but the page's own style is let in.
        policy=f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'",
        about=about,
        notes=notes,
        headings=headings(),
        tables=tables,
        compared=compared,
        figures=figures,
        stages=stages,
    )
    write_bytes(path, text.encode("utf-8", errors="xmlcharrefreplace"))


def _data_url(path: Path) -> str:
    return f"data:{_MEDIA_TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"
