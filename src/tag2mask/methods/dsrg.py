"""DSRG: deep seeded region growing (Huang et al., CVPR 2018)."""

from dataclasses import dataclass, field

from tag2mask.engine.plan import Plan
from tag2mask.stages.activation_maps import ActivationMapSettings, activation_maps, evaluate_activation_maps
from tag2mask.stages.evaluate import evaluate_labels
from tag2mask.stages.gradient_maps import GradientSettings
from tag2mask.stages.grown_labels import grown_labels
from tag2mask.stages.growth import OnlineCRFSettings, RegionGrowingSettings, region_growing
from tag2mask.stages.predict import PredictionSettings
from tag2mask.stages.retrain import RetrainSettings, plan_with_retraining
from tag2mask.stages.saliency_maps import SaliencySettings
from tag2mask.stages.segmenter_settings import SegmenterSettings
from tag2mask.stages.sparse_seeds import CueSettings, background_evidence, cue_seeds
from tag2mask.stages.train_classifier import ClassifierSettings, evaluate_classifier, train_classifier
from tag2mask.stages.train_segmenter import train_segmenter
from tag2mask.supervision.objective import OBJECTIVES, boundary_objective


@dataclass(frozen=True)
class DsrgSettings:
    """Settings of the method `dsrg`, stage by stage.

    Args:
        classifier: `classifier`, trained on tags.
        cams: `cams`, class activation maps of the training photographs.
        saliency: `saliency`, maps whose low values are background, where `seeds.background` is "saliency".
        gradient: `gradient_saliency`, the classifier's gradient, where `seeds.background` is "gradient".
        seeds: `cue_seeds`, thresholds on them.
        growing: region growing at every step.
        boundary: take the loss that follows the dense CRF of the softmax.
        online_crf: that CRF, on which regions grow too.
        segmenter: `segmenter`, trained on growing seeds.
        retrain: the second training, on the first segmenter's predictions.
        prediction: `prediction`, masks of the val photographs.
    """

    classifier: ClassifierSettings = field(default_factory=ClassifierSettings)
    cams: ActivationMapSettings = field(default_factory=ActivationMapSettings)
    saliency: SaliencySettings = field(default_factory=SaliencySettings)
    gradient: GradientSettings = field(default_factory=GradientSettings)
    seeds: CueSettings = field(default_factory=CueSettings)
    growing: RegionGrowingSettings = field(default_factory=RegionGrowingSettings)
    boundary: bool = True
    online_crf: OnlineCRFSettings = field(default_factory=OnlineCRFSettings)
    segmenter: SegmenterSettings = field(default_factory=lambda: SegmenterSettings(loss="balanced_seed"))
    retrain: RetrainSettings = field(default_factory=RetrainSettings)
    prediction: PredictionSettings = field(default_factory=PredictionSettings)


def dsrg(settings: DsrgSettings) -> Plan:
    """Classifier, CAMs, seeds, a segmenter whose labels grow from them, and that segmenter trained once more."""
    classifier = train_classifier(settings.classifier)
    cams = activation_maps(classifier, settings.cams)
    evidence = background_evidence(settings.seeds, classifier, settings.saliency, settings.gradient)
    seeds = cue_seeds(cams, settings.seeds, evidence)
    objective = OBJECTIVES[settings.segmenter.loss]()
    if settings.boundary:
        objective += boundary_objective()
    first = train_segmenter(
        seeds,
        settings.segmenter,
        supervision=region_growing(settings.growing, settings.online_crf, needs_crf=settings.boundary),
        objective=objective,
    )
    grown = grown_labels(first)
    results = {
        "classifier": evaluate_classifier(classifier),
        "cam_curve": evaluate_activation_maps(cams),
        "seeds": evaluate_labels(seeds),
        "pseudo_labels": evaluate_labels(grown),
    }
    low_on_background = {evidence.name.replace("_", " "): evidence} if evidence else {}
    shown = {"CAM": cams, **low_on_background, "seeds": seeds, "grown": grown}
    return plan_with_retraining(first, settings.retrain, settings.prediction, results=results, shown=shown)
