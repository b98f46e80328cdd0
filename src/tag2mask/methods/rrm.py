"""RRM: reliable regions of online CAMs, in one stage (Zhang et al., AAAI 2020)."""

from dataclasses import dataclass, field

from tag2mask.engine.plan import Plan
from tag2mask.stages.evaluate import evaluate_labels
from tag2mask.stages.predict import PredictionSettings, predictions
from tag2mask.stages.segmenter_settings import SegmenterTrainingSettings
from tag2mask.stages.single_stage.train_single_stage import (
    AdaptiveAffinitySettings,
    DenseEnergySettings,
    OnlineCamSettings,
    ReassignSettings,
    SingleStageParts,
    SingleStageSettings,
    online_labels,
    train_single_stage,
)
from tag2mask.stages.train_classifier import ClassifierSettings, score_classifier, train_classifier


@dataclass(frozen=True)
class RrmSettings:
    """Settings of the method `rrm`, stage by stage.

    Args:
        classifier: `classifier`, trained on tags, where `single_stage.start` is "classifier".
        online_cams: the labels of every step, from the network's own CAMs.
        single_stage: where the training starts, and when its segmentation begins.
        dense_energy: the paper's optional loss.
        segmenter: `single_stage`, network and training.
        prediction: `prediction`, masks of the val photographs.
    """

    classifier: ClassifierSettings = field(default_factory=ClassifierSettings)
    online_cams: OnlineCamSettings = field(default_factory=OnlineCamSettings)
    single_stage: SingleStageSettings = field(default_factory=SingleStageSettings)
    dense_energy: DenseEnergySettings = field(default_factory=DenseEnergySettings)
    segmenter: SegmenterTrainingSettings = field(default_factory=SegmenterTrainingSettings)
    prediction: PredictionSettings = field(default_factory=PredictionSettings)


def rrm(settings: RrmSettings) -> Plan:
    """Classifier, and one training whose segmenter learns from the CAMs of its own backbone."""
    return single_stage(settings)


def single_stage(
    settings: RrmSettings, affinity: AdaptiveAffinitySettings | None = None, reassign: ReassignSettings | None = None
) -> Plan:
    """RRM's stages, with the losses that AALR adds; None leaves one out."""
    parts = SingleStageParts(
        settings.single_stage,
        settings.online_cams,
        settings.dense_energy if settings.dense_energy.enabled else None,
        affinity,
        reassign,
    )
    classifier = train_classifier(settings.classifier)
    segmenter = train_single_stage(settings.segmenter, parts, classifier)
    labels = online_labels(segmenter)
    masks = predictions(segmenter, settings.prediction)
    scores = {"classifier": score_classifier(classifier)} if segmenter.classifier else {}
    return Plan(
        model=segmenter,
        predictions=masks,
        results={**scores, "pseudo_labels": evaluate_labels(labels), "val": evaluate_labels(masks)},
        pictures={"train": {"online label": labels}, "val": {"prediction": masks}},
    )
