"""SEC: seed, expand and constrain (Kolesnikov and Lampert, ECCV 2016)."""

from dataclasses import dataclass, field

from tag2mask.engine.plan import Plan
from tag2mask.stages.activation_maps import ActivationMapSettings, activation_maps, evaluate_activation_maps
from tag2mask.stages.evaluate import evaluate_labels
from tag2mask.stages.gradient_maps import GradientSettings
from tag2mask.stages.growth import ExpansionSettings, OnlineCRFSettings, RegionGrowingSettings, region_growing
from tag2mask.stages.predict import PredictionSettings, predictions
from tag2mask.stages.saliency_maps import SaliencySettings
from tag2mask.stages.segmenter_settings import SegmenterSettings
from tag2mask.stages.sparse_seeds import CueSettings, background_evidence, cue_seeds
from tag2mask.stages.train_classifier import ClassifierSettings, evaluate_classifier, train_classifier
from tag2mask.stages.train_segmenter import train_segmenter
from tag2mask.supervision.objective import OBJECTIVES, boundary_objective, expansion_objective

_NO_GROWING = RegionGrowingSettings(enabled=False)


@dataclass(frozen=True)
class SecSettings:
    """Settings of the method `sec`, stage by stage.

    Args:
        classifier: `classifier`, trained on tags.
        cams: `cams`, class activation maps of the training photographs.
        gradient: `gradient_saliency`, the classifier's gradient, where `seeds.background` is "gradient".
        saliency: `saliency`, a detector's maps, where `seeds.background` is "saliency".
        seeds: `cue_seeds`, thresholds on them.
        expansion: weighted rank pooling ("expand").
        boundary: take the loss that follows the dense CRF of the softmax ("constrain").
        online_crf: that CRF.
        segmenter: `segmenter`, trained on seeds with the three losses.
        prediction: `prediction`, masks of the val photographs.
    """

    classifier: ClassifierSettings = field(default_factory=ClassifierSettings)
    cams: ActivationMapSettings = field(default_factory=ActivationMapSettings)
    gradient: GradientSettings = field(default_factory=GradientSettings)
    saliency: SaliencySettings = field(default_factory=SaliencySettings)
    seeds: CueSettings = field(
        default_factory=lambda: CueSettings(background="gradient", background_below=0.0, background_share=0.1)
    )
    expansion: ExpansionSettings = field(default_factory=ExpansionSettings)
    boundary: bool = True
    online_crf: OnlineCRFSettings = field(default_factory=OnlineCRFSettings)
    segmenter: SegmenterSettings = field(default_factory=lambda: SegmenterSettings(loss="seed"))
    prediction: PredictionSettings = field(default_factory=PredictionSettings)


def sec(settings: SecSettings) -> Plan:
    """Classifier, CAMs, seeds, a segmenter that learns from seeds, expansion and boundaries."""
    classifier = train_classifier(settings.classifier)
    cams = activation_maps(classifier, settings.cams)
    evidence = background_evidence(settings.seeds, classifier, settings.saliency, settings.gradient)
    seeds = cue_seeds(cams, settings.seeds, evidence)
    objective = OBJECTIVES[settings.segmenter.loss]()
    if settings.expansion.enabled:
        objective += expansion_objective(**settings.expansion.decays)
    if settings.boundary:
        objective += boundary_objective()
    segmenter = train_segmenter(
        seeds,
        settings.segmenter,
        supervision=region_growing(_NO_GROWING, settings.online_crf, needs_crf=settings.boundary),
        objective=objective,
    )
    masks = predictions(segmenter, settings.prediction)
    return Plan(
        model=segmenter,
        predictions=masks,
        results={
            "classifier": evaluate_classifier(classifier),
            "cam_curve": evaluate_activation_maps(cams),
            "seeds": evaluate_labels(seeds),
            "val": evaluate_labels(masks),
        },
        pictures={
            "train": {"CAM": cams, **({evidence.name.replace("_", " "): evidence} if evidence else {}), "seeds": seeds},
            "val": {"prediction": masks},
        },
    )
