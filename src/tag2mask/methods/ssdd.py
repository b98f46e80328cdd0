"""SSDD: self-supervised difference detection (Shimoda & Yanai, ICCV 2019)."""

from dataclasses import dataclass, field
from typing import Literal

from tag2mask.engine.plan import Plan
from tag2mask.engine.stage import PerImageStage, Stage
from tag2mask.engine.training import TrainingStage
from tag2mask.errors import SettingsError, unknown_choice
from tag2mask.stages.activation_maps import evaluate_activation_maps
from tag2mask.stages.affinity.affinity_masks import AffinityMaskSettings, affinity_masks
from tag2mask.stages.difference.static_refinement import StaticSettings, static_refinement
from tag2mask.stages.difference.train_dynamic import DynamicSettings, dynamic_labels, train_dynamic
from tag2mask.stages.evaluate import evaluate_labels
from tag2mask.stages.labels import LabelStage
from tag2mask.stages.predict import PredictionSettings, predictions
from tag2mask.stages.segmenter_settings import SegmenterSettings
from tag2mask.stages.segmenter_training import SegmenterTraining
from tag2mask.stages.train_classifier import evaluate_classifier
from tag2mask.stages.train_segmenter import train_segmenter

STAGES = ("both", "static", "dynamic")


@dataclass(frozen=True)
class SsddSettings(AffinityMaskSettings):
    """Settings of the method `ssdd`: PSA's masks, and the two parts that refine them.

    Args:
        stages: "both", or one part alone: "static" ends with the refined seeds and a plain segmenter trained on them,
            "dynamic" takes PSA's masks after the dense CRF for its seeds.
        static: the static part, which makes seeds of PSA's masks before and after the dense CRF.
        dynamic: the dynamic part, whose training masks are refined at every step.
        segmenter: `segmenter`, the plain one that ends the static part alone.
        prediction: `prediction`, masks of the val photographs.
    """

    stages: Literal["both", "static", "dynamic"] = "both"
    static: StaticSettings = field(default_factory=StaticSettings)
    dynamic: DynamicSettings = field(default_factory=DynamicSettings)
    segmenter: SegmenterSettings = field(default_factory=SegmenterSettings)
    prediction: PredictionSettings = field(default_factory=PredictionSettings)

    def __post_init__(self) -> None:
        if self.stages not in STAGES:
            raise SettingsError(unknown_choice("stages", self.stages, STAGES))


def ssdd(settings: SsddSettings) -> Plan:
    """PSA's masks before and after the CRF, seeds made of both, a segmenter whose labels are refined as it learns."""
    made = affinity_masks(settings)
    results: dict[str, Stage] = {
        "classifier": evaluate_classifier(made.classifier),
        "cam_curve": evaluate_activation_maps(made.cams),
        "cam_labels": evaluate_labels(made.cam_labels),
        "walked_labels": evaluate_labels(made.walked_labels),
        "crf_labels": evaluate_labels(made.crf_labels),
    }
    shown: dict[str, PerImageStage] = {"PSA (before)": made.walked_labels}
    exports: dict[str, TrainingStage] = {}
    seeds: LabelStage = made.crf_labels
    if settings.stages == "dynamic":
        shown["CRF (seeds)"] = seeds
    else:
        static = static_refinement(made.walked_labels, made.crf_labels, made.classifier, settings.static)
        seeds = static.seeds
        results |= {"seeds": evaluate_labels(seeds), "differences": static.scores}
        shown |= {
            "predicted to differ from PSA": static.maps.showing("before"),
            "CRF (after)": made.crf_labels,
            "predicted to differ from CRF": static.maps.showing("after"),
            "refined": seeds,
        }
        exports["static"] = static.net
    if settings.stages == "static":
        segmenter: SegmenterTraining = train_segmenter(seeds, settings.segmenter)
    else:
        segmenter = dynamic = train_dynamic(seeds, settings.dynamic, made.classifier)
        labels = dynamic_labels(dynamic)
        results["pseudo_labels"] = evaluate_labels(labels)
        shown["dynamic"] = labels
        exports["dynamic"] = segmenter
    masks = predictions(segmenter, settings.prediction)
    return Plan(
        model=segmenter,
        predictions=masks,
        results={**results, "val": evaluate_labels(masks)},
        pictures={"train": shown, "val": {"prediction": masks}},
        exports=exports,
    )
