"""Writes a run's page: one HTML file that opens anywhere, needs no network and cannot reach one."""

import base64
import hashlib
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tag2mask.base.files import atomic_path
from tag2mask.base.text import duration
from tag2mask.evaluation.report.content import Card, ClassScores, ReportContent, Training

_FIGURE = re.compile(r"(?P<before>.*?)(?P<figure>\d+(?:\.\d+)?)(?P<after>.*)", re.DOTALL)
_DIGITS = 6  # of training losses: more than a chart can show


def write_page(path: Path, content: ReportContent) -> None:
    """Writes the page atomically.

    The cards are drawn from ``content.cards`` one at a time and written before the next one is asked for. The same
    content gives the same bytes.

    Args:
        path: the HTML file; its folder is made if it is not there.
        content: what the page shows.
    """
    style, script = (_source(name) for name in ("page.css", "page.js"))
    pieces = (
        _environment()
        .get_template("page.html.jinja")
        .generate(
            content=content,
            # The page's own style and script are let in by their hashes: nothing that a name or a tag smuggles in runs,
            # and with no other source allowed nothing can be fetched or sent.
            policy="; ".join(
                (
                    "default-src 'none'",
                    "img-src data:",
                    f"style-src 'sha256-{_hash(style)}'",
                    f"script-src 'sha256-{_hash(script)}'",
                    "base-uri 'none'",
                    "form-action 'none'",
                )
            ),
            style=style,
            script=script,
            headlines=[(_readable(name), *_headline(text)) for name, text in content.headlines],
            data={
                "classes": content.classes,
                "scores": [_scores(scores) for scores in content.scores],
                "trainings": [_training(training) for training in content.trainings],
                "rankings": [[name, _readable(name)] for name in content.rankings],
                "total": content.cards_total,
            },
            cards=_cards(content),
            measured=any(scores.values for scores in content.scores),
            confused=any(scores.confusion for scores in content.scores),
        )
    )
    # A file name need not be valid Unicode; what cannot be written is shown as its number.
    with (
        atomic_path(path) as aside,
        aside.open("w", encoding="utf-8", errors="xmlcharrefreplace", newline="\n") as file,
    ):
        file.writelines(pieces)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(__package__, ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Classes stay in their order; ASCII keeps invalid Unicode within what JSON can say.
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "ensure_ascii": True, "allow_nan": False}
    environment.filters.update(duration=duration, data_url=_data_url)
    return environment


def _source(name: str) -> Markup:
    return Markup(Path(__file__).with_name(name).read_text(encoding="utf-8"))


def _hash(source: str) -> str:
    return base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _data_url(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _readable(name: str) -> str:
    """A result's name as people write it."""
    return name.replace("_", " ")


def _headline(text: str) -> tuple[str, str, str]:
    """A line split into before, in and after its first figure, for that figure to be set large."""
    match = _FIGURE.fullmatch(text)
    return (match["before"], match["figure"], match["after"].lstrip(",; ")) if match else ("", "", text)


def _finite(value: float | None, digits: int | None = None) -> float | None:
    """JSON knows neither NaN nor infinity; both are shown as undefined."""
    if value is None or not math.isfinite(value):
        return None
    return float(value) if digits is None else float(f"{value:.{digits}g}")


def _scores(scores: ClassScores) -> dict[str, Any]:
    return {
        "name": _readable(scores.name),
        "measure": scores.measure,
        "headline": scores.headline,
        "mean": _finite(scores.mean),
        "values": [[name, _finite(value)] for name, value in scores.values.items()],
        "confusion": scores.confusion and [[int(count) for count in row] for row in scores.confusion],
    }


def _training(training: Training) -> dict[str, Any]:
    return {
        "name": training.name,
        "curves": [
            {
                "name": _readable(curve.name),
                "points": [
                    [_finite(step), _finite(value, _DIGITS)]
                    for step, value in zip(curve.steps, curve.values, strict=True)
                ],
            }
            for curve in training.curves
        ],
    }


def _cards(content: ReportContent) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Facts of each image, needed to sort and filter at once, and apart from them the heavy pictures."""
    for card in content.cards:
        yield _facts(card), [_data_url(layer.data, layer.media_type) for layer in card.layers]


def _facts(card: Card) -> dict[str, Any]:
    return {
        "id": card.id,
        "split": card.split,
        "tags": card.tags,
        "present": card.present,
        "size": card.size,
        "scores": [[name, _readable(name), _finite(value)] for name, value in card.scores.items()],
        "layers": [[layer.name, layer.kind] for layer in card.layers],
    }
