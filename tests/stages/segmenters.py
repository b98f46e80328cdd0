"""Segmenters of a finished run, for tests."""

import dataclasses
from typing import Any

from tag2mask.engine.environment import Environment
from tag2mask.engine.system import Position
from tag2mask.engine.training import TrainingStage
from tag2mask.stages.seeds import RefineSeeds
from tag2mask.stages.train_segmenter import TrainSegmenter, train_segmenter
from tests.stages.conftest import Finished

START = Position(0, 1, 0, 0)


def segmenter(finished: Finished) -> TrainSegmenter:
    """The one that learns from pseudo-labels, not the bound."""
    assert isinstance(finished.plan.model, TrainSegmenter)
    return finished.plan.model


def uncached(finished: Finished, **changes: Any) -> TrainSegmenter:
    settings = dataclasses.replace(finished.settings.segmenter, cache_features=False, **changes)
    return train_segmenter(finished.stage(RefineSeeds), settings)


def check_made_up_example(stage: TrainingStage, env: Environment) -> None:
    """What time is estimated with has the names, shapes and kinds of what is learnt from."""
    real, made_up = stage.open(env)(stage.samples(env)[0], 0), stage.example(env)
    assert {name: (value.shape, value.dtype) for name, value in made_up.items()} == {
        name: (value.shape, value.dtype) for name, value in real.items()
    }
    assert stage.estimate(env).seconds > 0
