"""Training once more, on what the trained segmenter makes of the training images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tag2mask.data.masks import encode_mask
from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment
from tag2mask.engine.plan import Plan
from tag2mask.engine.stage import PerImageStage, Stage
from tag2mask.stages.evaluate import evaluate_labels
from tag2mask.stages.predict import Predict, PredictionSettings, predict_mask, predictions
from tag2mask.stages.segmenter_settings import SegmenterSettings
from tag2mask.stages.train_segmenter import TrainSegmenter
from tag2mask.stages.views import load_image


@dataclass(frozen=True)
class TrainingLabelSettings(PredictionSettings):
    """Settings of the labels that the trained segmenter gives the images it was trained on.

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


class LabelTrainingImages(Predict):
    """Predictions on the training images, as a rule of their tagged classes alone, to train on."""

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
            return encode_mask(predict_mask(network, load_image(sample), self.settings, env.runtime, class_ids=tags))

        return make


def label_training_images(segmenter: TrainSegmenter, settings: TrainingLabelSettings) -> LabelTrainingImages:
    """Predictions on the training images, as labels."""
    return LabelTrainingImages(segmenter, settings)


def retrain(segmenter: TrainSegmenter, labels: LabelTrainingImages, settings: RetrainSettings) -> TrainSegmenter:
    """The second segmenter, trained on the first one's labels."""
    return TrainSegmenter(labels, settings.segmenter, start=segmenter if settings.from_first else None)


def plan_with_retraining(
    first: TrainSegmenter,
    settings: RetrainSettings,
    prediction: PredictionSettings,
    *,
    results: Mapping[str, Stage],
    shown: Mapping[str, PerImageStage],
) -> Plan:
    """The end of a method that may train once more: predictions of val, and what came of either training.

    Args:
        first: the segmenter.
        settings: of the second training, which may be switched off.
        prediction: masks of the val images.
        results: what the method reports up to here.
        shown: what it shows of training images up to here.
    """
    if not settings.enabled:
        masks = predictions(first, prediction)
        found = {**results, "val": evaluate_labels(masks)}
        return Plan(first, masks, found, {"train": dict(shown), "val": {"prediction": masks}})
    labels = label_training_images(first, settings.labels)
    model = retrain(first, labels, settings)
    masks = predictions(model, prediction)
    again = {
        "val_first": evaluate_labels(predictions(first, prediction)),
        "retrain_labels": evaluate_labels(labels),
        "val": evaluate_labels(masks),
    }
    columns = {**shown, "retrain label": labels}
    return Plan(model, masks, {**results, **again}, {"train": columns, "val": {"prediction": masks}})
