"""Contents for pages, and the browser that opens them."""

import dataclasses
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tag2mask.evaluation.report.content import (
    Card,
    ClassScores,
    Curve,
    Figure,
    Layer,
    ReportContent,
    StageRow,
    Training,
)
from tests.browser import browser

__all__ = ["browser"]

GREY, RED, BLUE = (128, 128, 128), (192, 0, 0), (0, 0, 192)
CLASSES = (("background", "#000000"), ("disc", "#c00000"), ("square", "#0000c0"))


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (60, 80)) -> bytes:
    """A PNG of one colour; size is (height, width)."""
    content = io.BytesIO()
    Image.fromarray(np.full((*size, 3), colour, dtype=np.uint8)).save(content, format="PNG")
    return content.getvalue()


def gallery_card(
    id: str,
    *,
    split: str = "train",
    tags: tuple[int, ...] = (1,),
    scores: Mapping[str, float] | None = None,
    size: tuple[int, int] = (60, 80),
    layers: Sequence[str] = ("photograph", "CAM", "truth"),
) -> Card:
    """A card: a grey photograph with covers of one colour, red ones and a blue truth."""
    drawn = [Layer("photograph", "photo", "image/png", picture(GREY, size))]
    drawn += [
        Layer(name, "cover", "image/png", picture(BLUE if name == "truth" else RED))
        for name in layers
        if name != "photograph"
    ]
    present = tags if "truth" in layers else ()
    return Card(id, split, tags, present, size, scores or {}, drawn)


def report_content(**changes: Any) -> ReportContent:
    """A small report with everything in it, in which single values can be replaced."""
    iou = {"background": 0.9, "disc": 0.25, "square": None}
    confusion = [[900, 50, 50, 0], [300, 600, 100, 0], [0, 0, 0, 0]]
    content = ReportContent(
        title="cam-0123",
        facts=[("Method", "cam"), ("Data", "/data/shapes")],
        headlines=[("val", "mIoU 57.5, pixel accuracy 80.1 on 2 photographs")],
        notes=["Chosen on the truth: reported, not used."],
        classes=CLASSES,
        scores=[
            ClassScores("classifier", "average precision", "mAP 95.0", 0.95, {"disc": 1.0, "square": 0.9}),
            ClassScores("pseudo_labels", "IoU", "mIoU 40.0", 0.4, {"background": 0.8, "disc": 0.5, "square": 0.1}),
            ClassScores("val", "IoU", "mIoU 57.5", 0.575, iou, confusion),
        ],
        trainings=[Training("classifier", [Curve("classification", [10, 20, 30], [0.7, float("nan"), 0.1])])],
        figures=[Figure("Thresholds", "image/png", picture(GREY))],
        stages=[StageRow("classifier-01", "train", 200.0, True), StageRow("cams-02", "train", 12.0, False)],
        settings="classifier:\n  epochs: 5\n",
        cards=[
            gallery_card("a photo", tags=(1, 2), scores={"val": 0.5}),
            gallery_card("b photo", tags=(1,), scores={"val": 0.9}),
            gallery_card("c photo", tags=(2,), scores={"val": 0.1}, split="val"),
            gallery_card("d photo", tags=(2,), split="val"),
        ],
        cards_total=4,
        rankings=["val"],
    )
    return dataclasses.replace(content, **changes)


@pytest.fixture(scope="session")
def make_content() -> Callable[..., ReportContent]:
    return report_content


@pytest.fixture(scope="session")
def make_card() -> Callable[..., Card]:
    return gallery_card


@pytest.fixture
def many_cards() -> Callable[[int], Iterator[Card]]:
    """A generator of that many cards, as a run makes them."""
    return lambda number: (gallery_card(f"photo {index}") for index in range(number))
