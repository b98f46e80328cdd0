"""A run of `cam` on several frozen networks, for tests."""

from pathlib import Path
from typing import Any, NamedTuple

from tag2mask.engine.environment import Environment
from tag2mask.engine.plan import Plan
from tag2mask.engine.progress import Reporter
from tag2mask.methods.registry import METHODS
from tag2mask.runs.prepare import prepare
from tag2mask.runs.settings import as_arguments, parse_arguments
from tag2mask.stages.block_features import JoinedFeatures
from tag2mask.stages.train_segmenter import TrainSegmenter
from tests.builders import TINY

PARTS: list[dict[str, Any]] = [
    {"name": "tf_efficientnet_lite0", "weights": "none", "block": "blocks.3", "long_side": 128},
    {"name": "tf_efficientnet_lite0", "weights": "none", "block": "blocks.5", "long_side": 128},
    {"name": "vit_tiny_patch16_224", "weights": "none", "block": "blocks.1", "long_side": 64},
]
VIEWS = {"crop": 64, "whole": True}
ON_TRUNKS: dict[str, Any] = {
    **TINY,
    "classifier": {"trunks": PARTS, "views": VIEWS, "training": TINY["classifier"]["training"]},
    "cams": {"inference": {"scales": [1.0, 2.0]}},
    "segmenter": {
        "trunks": PARTS,
        "head": {"width": 16, "dilations": [1]},
        "views": VIEWS,
        "label_stride": 4,
        "training": TINY["segmenter"]["training"],
    },
}


class Made(NamedTuple):
    folder: Path
    env: Environment
    plan: Plan


def planned(folder: Path, method: str = "cam", **given: Any) -> tuple[Environment, Plan]:
    places = {"data": folder / "data", "workspace": folder / "ws", "threads": 1, "device": "cpu"}
    settings = {
        name: ON_TRUNKS[name] for name in (("segmenter", "prediction") if method == "supervised" else ON_TRUNKS)
    }
    return prepare(
        parse_arguments(METHODS[method], as_arguments({**settings, **places, **given})), Reporter(quiet=True)
    )


def segmenter(made: Made) -> TrainSegmenter:
    assert isinstance(made.plan.model, TrainSegmenter)
    return made.plan.model


def joined(made: Made) -> JoinedFeatures:
    found = segmenter(made).batch.joined
    assert found is not None
    return found
