"""DCP: class patterns discovered in generic features (Luo and Yang, AAAI 2020)."""

import dataclasses
from dataclasses import dataclass, field

from tag2mask.engine.plan import Plan
from tag2mask.stages.activation_maps import ActivationMapSettings, activation_maps, evaluate_activation_maps
from tag2mask.stages.evaluate import evaluate_labels
from tag2mask.stages.patterns.class_patterns import FeatureSettings, PatternSettings, class_patterns
from tag2mask.stages.patterns.pattern_labels import PatternRefinementSettings, pattern_labels, refined_pattern_labels
from tag2mask.stages.patterns.pattern_maps import pattern_maps
from tag2mask.stages.predict import PredictionSettings
from tag2mask.stages.retrain import RetrainSettings, plan_with_retraining
from tag2mask.stages.segmenter_settings import SegmenterSettings
from tag2mask.stages.train_classifier import ClassifierSettings, evaluate_classifier, train_classifier
from tag2mask.stages.train_segmenter import train_segmenter


@dataclass(frozen=True)
class DcpPatternSettings(FeatureSettings):
    """Class patterns at one block of the classifier's backbone.

    Args:
        block: its name; `tag2mask study dcp` compares several.
    """

    block: str = "blocks.5"

    def at(self, *blocks: str) -> PatternSettings:
        """The stage's settings at these blocks, by default at `block` alone."""
        shared = {item.name: getattr(self, item.name) for item in dataclasses.fields(FeatureSettings)}
        return PatternSettings(**shared, blocks=blocks or (self.block,))


@dataclass(frozen=True)
class DcpSettings:
    """Settings of the method `dcp`, stage by stage.

    Args:
        classifier: `classifier`, trained on tags.
        cams: `cams`, class activation maps of the training photographs, which decide the patterns' signs.
        patterns: `class_patterns`, and which block's.
        refinement: `refined_pattern_labels`, the dense CRF on photographs with a single tag.
        segmenter: `segmenter`, trained on these masks.
        retrain: the second training, on the first segmenter's predictions.
        prediction: `prediction`, masks of the val photographs.
    """

    classifier: ClassifierSettings = field(default_factory=ClassifierSettings)
    cams: ActivationMapSettings = field(default_factory=ActivationMapSettings)
    patterns: DcpPatternSettings = field(default_factory=DcpPatternSettings)
    refinement: PatternRefinementSettings = field(default_factory=PatternRefinementSettings)
    segmenter: SegmenterSettings = field(default_factory=SegmenterSettings)
    retrain: RetrainSettings = field(default_factory=lambda: RetrainSettings(from_first=False))
    prediction: PredictionSettings = field(default_factory=PredictionSettings)


def dcp(settings: DcpSettings) -> Plan:
    """Classifier, class patterns in its features, masks by their sign, a segmenter, and another on its predictions."""
    classifier = train_classifier(settings.classifier)
    cams = activation_maps(classifier, settings.cams)
    patterns = class_patterns(classifier, cams, settings.patterns.at())
    maps = pattern_maps(patterns, settings.patterns.block)
    signs = pattern_labels(maps)
    refined = refined_pattern_labels(signs, settings.refinement)
    first = train_segmenter(refined, settings.segmenter)
    results = {
        "classifier": evaluate_classifier(classifier),
        "cam_curve": evaluate_activation_maps(cams),
        "patterns": patterns,
        "pattern_labels": evaluate_labels(signs),
        "pseudo_labels": evaluate_labels(refined),
    }
    shown = {"CAM": cams, "pattern": maps, "pattern label": signs, "pseudo-label": refined}
    return plan_with_retraining(first, settings.retrain, settings.prediction, results=results, shown=shown)
