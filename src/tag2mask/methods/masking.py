"""Image masking: a segmenter without pseudo-labels (Kim, dissertation 2022, chapter 2)."""

from dataclasses import dataclass, field

from tag2mask.engine.plan import Plan
from tag2mask.engine.stage import PerImageStage, Stage
from tag2mask.stages.activation_maps import ActivationMapSettings, activation_maps, evaluate_activation_maps
from tag2mask.stages.evaluate import evaluate_labels
from tag2mask.stages.masking.attention_maps import attention_maps
from tag2mask.stages.masking.refined_saliency import SaliencyLabelSettings, evaluate_saliency, saliency_labels
from tag2mask.stages.masking.train_masking import AttentionSettings, train_masking
from tag2mask.stages.predict import PredictionSettings, predictions
from tag2mask.stages.saliency_maps import SaliencySettings, saliency_maps
from tag2mask.stages.segmenter_settings import ScaledSegmenterSettings
from tag2mask.stages.train_classifier import ClassifierSettings, evaluate_classifier, train_classifier


@dataclass(frozen=True)
class MaskingSettings:
    """Settings of the method `masking`, stage by stage.

    Args:
        classifier: `classifier`, trained on tags, with dilated blocks beside its own where `head` has some.
        cams: `cams`, class activation maps of the training photographs, which refine the saliency.
        saliency: `saliency`, where objects of any class are.
        saliency_labels: `refined_saliency`, the thresholds and the refinement.
        attention: the attention loss.
        segmenter: `segmenter_masking`, the network and its training; the losses are the method's own.
        prediction: `prediction`, masks of the val photographs.
    """

    classifier: ClassifierSettings = field(default_factory=ClassifierSettings)
    cams: ActivationMapSettings = field(default_factory=lambda: ActivationMapSettings(rule="max"))
    saliency: SaliencySettings = field(default_factory=SaliencySettings)
    saliency_labels: SaliencyLabelSettings = field(default_factory=SaliencyLabelSettings)
    attention: AttentionSettings = field(default_factory=AttentionSettings)
    segmenter: ScaledSegmenterSettings = field(default_factory=ScaledSegmenterSettings)
    prediction: PredictionSettings = field(default_factory=PredictionSettings)


def masking(settings: MaskingSettings) -> Plan:
    """Classifier, saliency refined by its CAMs, and a segmenter that learns from both."""
    classifier = train_classifier(settings.classifier)
    cams = activation_maps(classifier, settings.cams) if settings.saliency_labels.refine else None
    saliency = saliency_maps(settings.saliency)
    labels = saliency_labels(saliency, cams, settings.saliency_labels)
    segmenter = train_masking(labels, settings.segmenter, settings.attention, classifier)
    results: dict[str, Stage] = {}
    shown: dict[str, PerImageStage] = {}
    if cams or settings.attention.enabled:
        results["classifier"] = evaluate_classifier(classifier)
    if cams:
        results["cam_curve"] = evaluate_activation_maps(cams)
        shown["CAM"] = cams
    attention, masks = attention_maps(segmenter), predictions(segmenter, settings.prediction)
    shown |= {
        "saliency": saliency,
        "refined saliency" if cams else "saliency label": labels,
        "attention": attention,
        "masked": attention.showing("masked"),
    }
    return Plan(
        model=segmenter,
        predictions=masks,
        results={**results, "saliency": evaluate_saliency(labels), "val": evaluate_labels(masks)},
        pictures={"train": shown, "val": {"prediction": masks}},
    )
