"""The study as a graph of stages, and its figures as rows of tables."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tag2mask.engine.environment import Environment
from tag2mask.engine.graph import ordered
from tag2mask.engine.stage import Stage
from tag2mask.errors import SettingsError, unknown_choice
from tag2mask.stages.activation_maps import (
    ActivationMapSettings,
    EvaluateActivationMaps,
    activation_maps,
    evaluate_activation_maps,
)
from tag2mask.stages.backbone import BackboneSettings
from tag2mask.stages.evaluate import Evaluate, evaluate_labels
from tag2mask.stages.labels import LabelStage
from tag2mask.stages.patterns.class_patterns import ClassPatterns, PatternSettings, class_patterns
from tag2mask.stages.patterns.pattern_labels import (
    PatternLabels,
    PatternRefinementSettings,
    pattern_labels,
    refined_pattern_labels,
)
from tag2mask.stages.patterns.pattern_maps import pattern_maps
from tag2mask.stages.train_classifier import ClassifierSettings, TrainClassifier, train_classifier
from tag2mask.study.dcp.stages import PixelPlanes, PixelSettings

_BLOCKS, _CLASSES = 4, 6  # compared unless others are asked for


@dataclass(frozen=True)
class StudySettings:
    """Settings of the parts of the method `dcp` that are studied.

    Args:
        classifier: whose features they are.
        cams: they decide the patterns' signs.
        patterns: at all blocks that are compared.
        refinement: the CRF on photographs with a single tag.
    """

    classifier: ClassifierSettings
    cams: ActivationMapSettings
    patterns: PatternSettings
    refinement: PatternRefinementSettings


@dataclass(frozen=True)
class BlockMasks:
    """Masks of the training images from the class patterns at one block.

    Args:
        block: its name.
        labels: by algorithm 1.
        refined: after the CRF, which images with a single tag get.
        scores: of `labels`; None without true masks.
        refined_scores: of `refined`; likewise.
    """

    block: str
    labels: PatternLabels
    refined: LabelStage
    scores: Evaluate | None
    refined_scores: Evaluate | None


@dataclass(frozen=True)
class DcpStudy:
    """The graph of the study.

    Args:
        settings: of its stages.
        classifier: trained on tags, the method's.
        curve: the CAMs at every threshold; None without true masks.
        patterns: of all classes at all blocks.
        masks: by block.
        pixels: on the planes of the chosen classes' components.
    """

    settings: StudySettings
    classifier: TrainClassifier
    curve: EvaluateActivationMaps | None
    patterns: ClassPatterns
    masks: tuple[BlockMasks, ...]
    pixels: PixelPlanes

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of the blocks that are compared."""
        return self.patterns.settings.blocks

    def stages(self) -> list[Stage]:
        """Stages to make, each after its inputs."""
        wanted: list[Stage] = [self.patterns, self.pixels]
        if self.curve is not None:
            wanted.append(self.curve)
        for each in self.masks:
            wanted += [each.scores or each.labels, each.refined_scores or each.refined]
        return ordered(wanted)

    def rows(self, env: Environment) -> list[dict[str, Any]]:
        """Quality of the CAM's and every block's masks, all within 0..1; nothing without true masks.

        Returns:
            per row "masks", "images", "mean_iou", "refined_mean_iou" after the CRF, "labelled_share",
            "labelled_precision" and, by class, "iou" and "refined_iou"; None where the CAM has no such figure.
        """
        if self.curve is None:
            return []
        best = self.curve.metrics(env)
        cam = {"masks": f"CAM, threshold {best['best_threshold']:.2f}", "mean_iou": best["best_mean_iou"]}
        names = ("images", "mean_iou", "refined_mean_iou", "labelled_share", "labelled_precision", "iou", "refined_iou")
        rows = [dict.fromkeys(("masks", *names)) | cam]
        for each in self.masks:
            assert each.scores is not None
            assert each.refined_scores is not None
            plain, refined = each.scores.metrics(env), each.refined_scores.metrics(env)
            found = plain | {f"refined_{name}": refined[name] for name in ("mean_iou", "iou")}
            rows.append({"masks": each.block} | {name: found[name] for name in names})
        return rows


def last_blocks(backbone: BackboneSettings) -> tuple[str, ...]:
    """The blocks that are compared unless others are asked for: the last four that the backbone has."""
    return backbone.facts.blocks[-_BLOCKS:]


def build_study(settings: StudySettings, env: Environment, classes: Sequence[str] | None = None) -> DcpStudy:
    """The graph of the study; true masks are scored where there are any.

    Args:
        settings: of the stages.
        env: has the images.
        classes: names of those whose pixels are shown; the six with the most images by default.

    Raises:
        SettingsError: there is no such block or class, or no image of it.
    """
    classifier = train_classifier(settings.classifier)
    cams = activation_maps(classifier, settings.cams)
    patterns = class_patterns(classifier, cams, settings.patterns)
    truth = any(sample.mask for sample in env.split("train"))

    def masks(block: str) -> BlockMasks:
        labels = pattern_labels(pattern_maps(patterns, block))
        refined = refined_pattern_labels(labels, settings.refinement)
        scores = [evaluate_labels(stage) if truth else None for stage in (labels, refined)]
        return BlockMasks(block, labels, refined, *scores)

    return DcpStudy(
        settings,
        classifier,
        evaluate_activation_maps(cams) if truth else None,
        patterns,
        tuple(masks(block) for block in patterns.settings.blocks),
        PixelPlanes(patterns, PixelSettings(_chosen(env, classes))),
    )


def _chosen(env: Environment, classes: Sequence[str] | None) -> tuple[int, ...]:
    """Ids of the classes whose pixels are shown.

    Raises:
        SettingsError: there is no such class, or no image of it.
    """
    counts = Counter(tag for sample in env.split("train") for tag in sample.tags)
    names = env.dataset.classes
    if not classes:
        # Equal numbers in the order of the classes, whatever image comes first.
        return tuple(sorted(sorted(counts, key=lambda tag: (-counts[tag], tag))[:_CLASSES]))
    for name in classes:
        if name not in names:
            raise SettingsError(unknown_choice("class", name, names))
        if not counts[names.index(name) + 1]:
            raise SettingsError(f"--classes: no training photograph has the tag '{name}'")
    return tuple(dict.fromkeys(names.index(name) + 1 for name in classes))
