"""What a study leaves, and its page: one HTML file that opens anywhere and needs no network."""

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tag2mask.base.files import write_bytes
from tag2mask.base.text import duration
from tag2mask.study.figures import Figure

_MEDIA_TYPES = {".png": "image/png", ".jpg": "image/jpeg"}


@dataclass(frozen=True)
class StudyResult:
    """Files that a study left.

    Args:
        folder: with everything below.
        report: the page, ``report.html``.
        figures: all figures as they are in ``study.json``.
    """

    folder: Path
    report: Path
    figures: dict[str, Any]


def write_study_page(
    path: Path,
    template: str,
    *,
    title: str,
    about: Mapping[str, str],
    notes: Sequence[str],
    figures: Sequence[Figure],
    stages: Sequence[tuple[str, float]],
    filters: Mapping[str, Callable[..., Any]],
    **tables: Any,
) -> None:
    """Writes the page atomically.

    Args:
        path: the HTML file.
        template: the study's own, which extends ``base.html.jinja`` by its tables; its path below this package.
        title: of the page.
        about: what was studied, as pairs of a name and a text.
        notes: what a reader has to know.
        figures: the pictures, which become part of the file.
        stages: name and seconds of each.
        filters: what the template calls, by name.
        tables: what the template puts into its tables.
    """
    environment = Environment(
        loader=PackageLoader(__package__, ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(duration=duration, data_url=_data_url, **filters)
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    text = environment.get_template(template).render(
        style=Markup(style),
        # Nothing can be fetched, and nothing but the page's own style is let in.
        policy=f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'",
        title=title,
        about=about,
        notes=notes,
        figures=figures,
        stages=stages,
        **tables,
    )
    write_bytes(path, text.encode("utf-8", errors="xmlcharrefreplace"))


def _data_url(path: Path) -> str:
    return f"data:{_MEDIA_TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"
