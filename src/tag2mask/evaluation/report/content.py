"""Content of a run's page as plain values: whoever draws the page needs to know nothing of runs and stages."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

LayerKind = Literal["photo", "cover", "picture"]
"""Display of a layer: the image itself; a cover with transparent parts, laid over the image (a mask, a heat map); or an
opaque picture that stands beside it."""


@dataclass(frozen=True)
class Layer:
    """One picture of an image: itself, a CAM, a mask, or whatever a stage draws.

    Args:
        name: as columns are called in reports: "photograph", "CAM", "pseudo-label", "prediction", "truth".
        kind: how it is shown.
        media_type: "image/png", "image/jpeg" or "image/webp".
        data: the file. A cover may be of lower resolution than the image; it is stretched over it.
    """

    name: str
    kind: LayerKind
    media_type: str
    data: bytes


@dataclass(frozen=True)
class Card:
    """One image of the gallery.

    Args:
        id: the image's id.
        split: the list it is on, as the data set names it.
        tags: ids of the classes it is tagged with, from 1.
        present: ids of the foreground classes in its true mask, empty without truth.
        size: (height, width) of the original.
        scores: mean IoU within this image by the name of the result ("pseudo_labels", "val"); empty without truth.
        layers: the image first, then what was made of it, in the order of the method's steps, truth last.
    """

    id: str
    split: str
    tags: tuple[int, ...]
    present: tuple[int, ...]
    size: tuple[int, int]
    scores: Mapping[str, float]
    layers: Sequence[Layer]


@dataclass(frozen=True)
class ClassScores:
    """Figures of one result, class by class, each a share in [0, 1].

    Args:
        name: of the result: "classifier", "pseudo_labels", "val".
        measure: what the figures are: "IoU", "average precision".
        headline: the result in a line.
        mean: over the classes.
        values: figure by class name, background among them where it counts; None where it is not defined.
        confusion: pixel counts, rows true class, columns predicted class and a last one "unlabelled"; None where there
            is none. Names of rows are the keys of `values` in order.
    """

    name: str
    measure: str
    headline: str
    mean: float
    values: Mapping[str, float | None]
    confusion: Sequence[Sequence[int]] | None = None


@dataclass(frozen=True)
class Figure:
    """A picture of a stage as a whole: a training curve, a threshold curve.

    Args:
        title: what it shows.
        media_type: "image/png", "image/jpeg" or "image/svg+xml".
        data: the file.
    """

    title: str
    media_type: str
    data: bytes


@dataclass(frozen=True)
class Curve:
    """A quantity over the steps of a training.

    Args:
        name: of the quantity.
        steps: ascending.
        values: one per step.
    """

    name: str
    steps: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True)
class Training:
    """The curves of one training: losses, one chart for all of them.

    Args:
        name: of the training.
        curves: losses by step.
    """

    name: str
    curves: Sequence[Curve]


@dataclass(frozen=True)
class StageRow:
    """One stage of the run.

    Args:
        name: folder of its artifact.
        split: the list it worked on.
        seconds: spent on it, over all runs.
        cached: whether an earlier run had made it.
    """

    name: str
    split: str
    seconds: float
    cached: bool


@dataclass(frozen=True)
class ReportContent:
    """All that the page shows.

    Args:
        title: name of the run.
        facts: what was run, as (what, value): method, data, photographs, seed, device, time, versions.
        headlines: the figures one asks for first, as (result, text).
        notes: what a reader has to know about the figures: "no truth ..." where masks could not be scored.
        classes: name and "#rrggbb" colour of every id, background first.
        scores: figures class by class.
        trainings: training curves.
        figures: pictures of stages as wholes.
        stages: in the order they were made.
        settings: the run's settings as YAML.
        cards: the gallery, made one by one: not all of it need fit into memory.
        cards_total: how many images the run had, of which the cards may be a part.
        rankings: results that cards can be ordered by, the first one by default; empty without truth.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    headlines: Sequence[tuple[str, str]]
    notes: Sequence[str]
    classes: Sequence[tuple[str, str]]
    scores: Sequence[ClassScores] = ()
    trainings: Sequence[Training] = ()
    figures: Sequence[Figure] = ()
    stages: Sequence[StageRow] = ()
    settings: str = ""
    cards: Iterable[Card] = field(default=())
    cards_total: int = 0
    rankings: Sequence[str] = ()
