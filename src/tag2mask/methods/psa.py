"""PSA: pixel-level semantic affinity (Ahn & Kwak, CVPR 2018)."""

from dataclasses import dataclass, field
from typing import Literal

from tag2mask.engine.plan import Plan
from tag2mask.errors import SettingsError, unknown_choice
from tag2mask.stages.activation_maps import evaluate_activation_maps
from tag2mask.stages.affinity.affinity_masks import AffinityMaskSettings, affinity_masks
from tag2mask.stages.evaluate import evaluate_labels
from tag2mask.stages.predict import PredictionSettings, predictions
from tag2mask.stages.segmenter_settings import SegmenterSettings
from tag2mask.stages.train_classifier import evaluate_classifier
from tag2mask.stages.train_segmenter import train_segmenter


@dataclass(frozen=True)
class PsaSettings(AffinityMaskSettings):
    """Settings of the method `psa`: PSA's masks, and what is trained on them.

    Args:
        train_on: masks the segmenter learns from, those after the dense CRF ("crf") or right after the walk ("walk").
        segmenter: `segmenter`, trained on them.
        prediction: `prediction`, masks of the val photographs.
    """

    train_on: Literal["crf", "walk"] = "crf"
    segmenter: SegmenterSettings = field(default_factory=SegmenterSettings)
    prediction: PredictionSettings = field(default_factory=PredictionSettings)

    def __post_init__(self) -> None:
        if self.train_on not in ("crf", "walk"):
            raise SettingsError(unknown_choice("train_on", self.train_on, ("crf", "walk")))


def psa(settings: PsaSettings) -> Plan:
    """Classifier, CAMs, AffinityNet, random walk, dense CRF, segmenter."""
    made = affinity_masks(settings)
    labels = {"crf": made.crf_labels, "walk": made.walked_labels}[settings.train_on]
    segmenter = train_segmenter(labels, settings.segmenter)
    masks = predictions(segmenter, settings.prediction)
    return Plan(
        model=segmenter,
        predictions=masks,
        results={
            "classifier": evaluate_classifier(made.classifier),
            "cam_curve": evaluate_activation_maps(made.cams),
            "cam_labels": evaluate_labels(made.cam_labels),
            "walked_labels": evaluate_labels(made.walked_labels),
            "pseudo_labels": evaluate_labels(made.crf_labels),
            "val": evaluate_labels(masks),
        },
        pictures={
            "train": {
                "CAM": made.cams,
                "confident": made.confident,
                "walked": made.walked,
                "walked mask": made.walked_labels,
                "pseudo-label": made.crf_labels,
            },
            "val": {"prediction": masks},
        },
    )
