"""RRM's stages, which `aalr` gives two losses more."""

from dataclasses import dataclass, field

from tag2mask.engine.plan import Plan
from tag2mask.stages.evaluate import evaluate_labels
from tag2mask.stages.predict import PredictionSettings, predictions
from tag2mask.stages.segmenter_settings import SegmenterTrainingSettings
from tag2mask.stages.single_stage.single_stage_settings import (
    AdaptiveAffinitySettings,
    DenseEnergySettings,
    OnlineCamSettings,
    ReassignSettings,
    SingleStageParts,
    SingleStageSettings,
)
from tag2mask.stages.single_stage.train_single_stage import online_labels, train_single_stage
from tag2mask.stages.train_classifier import ClassifierSettings, evaluate_classifier, train_classifier


@dataclass(frozen=True)
class SingleStagePlanSettings:
    """Settings of a method of a single stage, stage by stage.

    Args:
        classifier: `classifier`, trained on tags, where `single_stage.start` is "classifier".
        online_cams: the labels of every step, from the network's own CAMs.
        single_stage: where the training starts, and when its segmentation begins.
        dense_energy: RRM's optional loss.
        segmenter: `single_stage`, network and training.
        prediction: `prediction`, masks of the val photographs.
    """

    classifier: ClassifierSettings = field(default_factory=ClassifierSettings)
    online_cams: OnlineCamSettings = field(default_factory=OnlineCamSettings)
    single_stage: SingleStageSettings = field(default_factory=SingleStageSettings)
    dense_energy: DenseEnergySettings = field(default_factory=DenseEnergySettings)
    segmenter: SegmenterTrainingSettings = field(default_factory=SegmenterTrainingSettings)
    prediction: PredictionSettings = field(default_factory=PredictionSettings)


def single_stage(
    settings: SingleStagePlanSettings,
    affinity: AdaptiveAffinitySettings | None = None,
    reassign: ReassignSettings | None = None,
) -> Plan:
    """Classifier, and one training whose segmenter learns from the CAMs of its own backbone.

    Args:
        settings: of the stages.
        affinity: AALR's adaptive affinity loss; None leaves it out.
        reassign: the label reassign loss; likewise.
    """
    parts = SingleStageParts(
        settings.single_stage,
        settings.online_cams,
        settings.dense_energy if settings.dense_energy.enabled else None,
        affinity if affinity is not None and affinity.enabled else None,
        reassign if reassign is not None and reassign.enabled else None,
    )
    classifier = train_classifier(settings.classifier)
    segmenter = train_single_stage(settings.segmenter, parts, classifier)
    labels = online_labels(segmenter)
    masks = predictions(segmenter, settings.prediction)
    scores = {"classifier": evaluate_classifier(classifier)} if segmenter.classifier else {}
    return Plan(
        model=segmenter,
        predictions=masks,
        results={**scores, "pseudo_labels": evaluate_labels(labels), "val": evaluate_labels(masks)},
        pictures={"train": {"online label": labels}, "val": {"prediction": masks}},
    )
