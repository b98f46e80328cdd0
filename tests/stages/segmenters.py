"""Segmenters of a finished run, for tests."""

import dataclasses
from typing import Any

from tag2mask.engine.system import Position
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
