"""Plain class activation maps as pseudo-labels (Zhou et al. 2016; Kim, dissertation 2022, section 1.2)."""

from dataclasses import dataclass, field

from tag2mask.engine.plan import Plan
from tag2mask.stages.activation_maps import ActivationMapSettings, activation_maps, evaluate_activation_maps
from tag2mask.stages.evaluate import evaluate_labels
from tag2mask.stages.predict import PredictionSettings, predictions
from tag2mask.stages.seeds import RefinementSettings, SeedSettings, cam_seeds, refine_seeds
from tag2mask.stages.segmenter_settings import SegmenterSettings
from tag2mask.stages.train_classifier import ClassifierSettings, evaluate_classifier, train_classifier
from tag2mask.stages.train_segmenter import train_segmenter


@dataclass(frozen=True)
class CamSettings:
    """Settings of the method `cam`, stage by stage.

    Args:
        classifier: `classifier`, trained on tags.
        cams: `cams`, class activation maps of the training photographs.
        seeds: `seeds`, thresholds on them.
        refinement: `refinement`, the dense CRF that gives the pseudo-labels.
        segmenter: `segmenter`, trained on the pseudo-labels.
        prediction: `prediction`, masks of the val photographs.
    """

    classifier: ClassifierSettings = field(default_factory=ClassifierSettings)
    cams: ActivationMapSettings = field(default_factory=ActivationMapSettings)
    seeds: SeedSettings = field(default_factory=SeedSettings)
    refinement: RefinementSettings = field(default_factory=RefinementSettings)
    segmenter: SegmenterSettings = field(default_factory=SegmenterSettings)
    prediction: PredictionSettings = field(default_factory=PredictionSettings)


def cam(settings: CamSettings) -> Plan:
    """Classifier, CAMs, thresholds, dense CRF, segmenter."""
    classifier = train_classifier(settings.classifier)
    cams = activation_maps(classifier, settings.cams)
    seeds = cam_seeds(cams, settings.seeds)
    labels = refine_seeds(cams, seeds, settings.refinement)
    segmenter = train_segmenter(labels, settings.segmenter)
    masks = predictions(segmenter, settings.prediction)
    return Plan(
        model=segmenter,
        predictions=masks,
        results={
            "classifier": evaluate_classifier(classifier),
            "cam_curve": evaluate_activation_maps(cams),
            "seeds": evaluate_labels(seeds),
            "pseudo_labels": evaluate_labels(labels),
            "val": evaluate_labels(masks),
        },
        pictures={"train": {"CAM": cams, "seeds": seeds, "pseudo-label": labels}, "val": {"prediction": masks}},
    )
