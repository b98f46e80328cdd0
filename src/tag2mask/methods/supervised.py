"""The segmenter trained on true masks: the upper bound that every method is shown against."""

from dataclasses import dataclass, field

from tag2mask.engine.plan import Plan
from tag2mask.stages.evaluate import evaluate_labels
from tag2mask.stages.predict import PredictionSettings, predictions
from tag2mask.stages.segmenter_settings import SegmenterSettings
from tag2mask.stages.train_segmenter import train_segmenter
from tag2mask.stages.true_masks import true_masks


@dataclass(frozen=True)
class SupervisedSettings:
    """Settings of the method `supervised`.

    Args:
        segmenter: `segmenter`, trained on the true masks.
        prediction: `prediction`, masks of the val photographs.
    """

    segmenter: SegmenterSettings = field(default_factory=SegmenterSettings)
    prediction: PredictionSettings = field(default_factory=PredictionSettings)


def supervised(settings: SupervisedSettings) -> Plan:
    """The same segmenter as every method's, on the true masks."""
    segmenter = train_segmenter(true_masks(), settings.segmenter)
    masks = predictions(segmenter, settings.prediction)
    return Plan(
        model=segmenter,
        predictions=masks,
        results={"val": evaluate_labels(masks)},
        pictures={"val": {"prediction": masks}},
    )
