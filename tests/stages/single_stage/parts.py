"""A single stage on small data, and what its tests share."""

import dataclasses
from typing import Any

import torch

from tag2mask.engine.environment import Environment
from tag2mask.engine.system import Position
from tag2mask.networks.segmenter import HeadSettings
from tag2mask.stages.growth import OnlineCRFSettings
from tag2mask.stages.single_stage.single_stage_settings import (
    AdaptiveAffinitySettings,
    OnlineCamSettings,
    ReassignSettings,
    SingleStageParts,
    SingleStageSettings,
)
from tag2mask.stages.single_stage.train_single_stage import TrainSingleStage, train_single_stage
from tag2mask.stages.train_classifier import TrainClassifier
from tests.stages.conftest import Finished, run_with_inputs

START = Position(0, 1, 0, 0)
RRM = ["classification", "background", "foreground"]
AFFINITY = [
    f"affinity_{name}" for name in ("same_background", "same_object", "different_objects", "different_background")
]
HEAD = HeadSettings(kind="dilated", width=12, dilations=(2,), dropout=0.0)
# A network that has learnt next to nothing is sure of little.
ONLINE = OnlineCamSettings(
    scales=(1.0,),
    low_alpha=0.5,
    high_alpha=1.0,
    background_above=0.4,
    probability_above=0.5,
    crf=OnlineCRFSettings(iterations=2, shrink=4.0),
)
BOTH: dict[str, Any] = {
    "affinity": AdaptiveAffinitySettings(distance=1),
    "reassign": ReassignSettings(),
    "settings": SingleStageSettings(segmentation_from=0.0, grid_stride=4),
}


def stage_of(finished: Finished, *, made: bool = True, segmenter: dict[str, Any] | None = None, **parts: Any) -> Any:
    """From `cam`'s classifier; every input is made."""
    plain = SingleStageParts(SingleStageSettings(segmentation_from=0.0, grid_stride=4), ONLINE)
    settings = dataclasses.replace(finished.settings.segmenter, **{"head": HEAD, **(segmenter or {})})
    stage = train_single_stage(settings, dataclasses.replace(plain, **parts), finished.stage(TrainClassifier))
    for needed in stage.inputs.values() if made else ():
        run_with_inputs(needed, finished.env)
    return stage


def batch_of(stage: TrainSingleStage, env: Environment, count: int = 4) -> dict[str, Any]:
    load = stage.open(env)
    examples = [load(sample, 0) for sample in stage.samples(env)[:count]]
    return {name: torch.stack([example[name] for example in examples]) for name in examples[0]}
