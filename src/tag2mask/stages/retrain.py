"""Training once more, on what the trained segmenter makes of the training photographs."""

from collections.abc import Callable
from dataclasses import dataclass, field

from tag2mask.data.masks import encode_mask
from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment
from tag2mask.stages.predict import Predict, PredictionSettings, predict_mask
from tag2mask.stages.train_segmenter import SegmenterSettings, TrainSegmenter
from tag2mask.stages.views import load_photograph


@dataclass(frozen=True)
class TrainingLabelSettings(PredictionSettings):
    """How the trained segmenter labels the photographs it was trained on.

    Args:
        restrict_to_tags: take the best of background and the tagged classes; otherwise of all classes.
    """

    restrict_to_tags: bool = True


@dataclass(frozen=True)
class RetrainSettings:
    """Retraining (DSRG, section 3.4 and table 2).

    Args:
        enabled: retrain at all.
        from_first: go on from the first network's weights, as the authors' code does; otherwise start afresh.
        labels: scales and CRF of the predictions that become labels.
        segmenter: the second training; with `from_first` its backbone and head are the first one's.
    """

    enabled: bool = True
    from_first: bool = True
    labels: TrainingLabelSettings = field(default_factory=TrainingLabelSettings)
    segmenter: SegmenterSettings = field(default_factory=SegmenterSettings)


class LabelTrainingPhotographs(Predict):
    """Predictions on the training photographs, as a rule of their tagged classes alone, to train on."""

    name = "training_labels"
    version = 1
    reads = frozenset({"images", "tags"})
    settings: TrainingLabelSettings

    def __init__(self, segmenter: TrainSegmenter, settings: TrainingLabelSettings) -> None:
        super().__init__(segmenter, settings, "train")

    def terms(self) -> list[str]:
        return [*(["tagged classes alone"] if self.settings.restrict_to_tags else []), *super().terms()]

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        network, restrict = self.segmenter.load(env), self.settings.restrict_to_tags

        def make(sample: Sample) -> bytes:
            tags = sample.tags if restrict else None
            return encode_mask(
                predict_mask(network, load_photograph(sample), self.settings, env.runtime, class_ids=tags)
            )

        return make


def label_training_photographs(segmenter: TrainSegmenter, settings: TrainingLabelSettings) -> LabelTrainingPhotographs:
    """Predictions on the training photographs, as labels."""
    return LabelTrainingPhotographs(segmenter, settings)


def retrain(segmenter: TrainSegmenter, labels: LabelTrainingPhotographs, settings: RetrainSettings) -> TrainSegmenter:
    """The second segmenter, trained on the first one's labels."""
    return TrainSegmenter(labels, settings.segmenter, start=segmenter if settings.from_first else None)
