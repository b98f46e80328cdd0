"""Labels that seeds have grown to by the end of a training."""

from collections.abc import Callable
from dataclasses import dataclass

from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment
from tag2mask.engine.stage import Estimate
from tag2mask.networks.inference import ScaleSettings
from tag2mask.stages.labels import LabelStage, encode_labels
from tag2mask.stages.segmenter_training import SegmenterTraining


@dataclass(frozen=True)
class GrownLabelSettings:
    """Everything is the training's: thresholds, grid and seeds."""


class GrownLabels(LabelStage):
    """Labels of the training images as the trained segmenter's supervision makes them, at full size."""

    name = "grown_labels"
    on_device = True
    reads = frozenset({"images", "tags"})

    def __init__(self, segmenter: SegmenterTraining) -> None:
        super().__init__(GrownLabelSettings(), segmenter.split, segmenter=segmenter)
        self.segmenter = segmenter

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        labels = self.segmenter.online_labels(self.segmenter.trained_system(env), env)
        return lambda sample: encode_labels(sample, labels(sample).numpy())

    def estimate(self, env: Environment) -> Estimate:
        settings = self.segmenter.settings
        scales = ScaleSettings(long_side=settings.views.crop, mirror=False)
        seconds = settings.trunk.seconds(scales, env)
        count = len(self.samples(env))
        return Estimate(seconds * count, 3e3 * count)


def grown_labels(segmenter: SegmenterTraining) -> GrownLabels:
    """The segmenter's labels as they have grown by the end of its training."""
    return GrownLabels(segmenter)
