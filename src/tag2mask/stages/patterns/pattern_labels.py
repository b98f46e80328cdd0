"""Masks from class patterns (DCP): the sign of the projections, then the dense CRF where there is one class."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from tag2mask.data.classes import BACKGROUND
from tag2mask.data.images import read_image
from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment
from tag2mask.engine.stage import Estimate
from tag2mask.errors import SettingsError, unknown_choice
from tag2mask.evidence.class_pattern import pattern_labels as labels_of_maps
from tag2mask.stages.crf import CRFSettings
from tag2mask.stages.labels import LabelStage, encode_labels, labels_as_probabilities
from tag2mask.stages.patterns.pattern_maps import PatternMap, PatternMaps

Unary = Literal["labels", "scores"]


@dataclass(frozen=True)
class PatternLabelSettings:
    """The sign of the projections needs no settings."""


class PatternLabels(LabelStage):
    """Algorithm 1 on projections at the image's size: background, a class, or unlabelled where classes meet."""

    name = "pattern_labels"
    reads = frozenset({"tags"})

    def __init__(self, maps: PatternMaps) -> None:
        super().__init__(PatternLabelSettings(), maps.split, maps=maps)
        self.maps = maps

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        def make(sample: Sample) -> bytes:
            found = self.maps.load(env, sample.id)
            return encode_labels(sample, labels_of_maps(found.at_size(), found.class_ids).numpy())

        return make

    def estimate(self, env: Environment) -> Estimate:
        count = len(self.samples(env))
        return Estimate(0.01 * count, 3e3 * count)


@dataclass(frozen=True)
class PatternRefinementSettings:
    """Settings of the dense CRF that gives masks of one class edges. The paper does not say what it starts from.

    Args:
        unary: "labels", the mask, each pixel trusted with `confidence`; "scores", the logistic function of q.
        confidence: probability of a pixel's label.
        crf: the CRF's kernels.
    """

    unary: Unary = "labels"
    confidence: float = 0.7
    crf: CRFSettings = field(default_factory=CRFSettings)

    def __post_init__(self) -> None:
        if self.unary not in get_args(Unary):
            raise SettingsError(unknown_choice("refinement.unary", self.unary, get_args(Unary)))
        if not 0 < self.confidence < 1:
            raise SettingsError(f"refinement.confidence: {self.confidence} must lie between 0 and 1")


class RefinedPatternLabels(LabelStage):
    """The dense CRF on images with a single tag; all others keep their masks (Luo & Yang)."""

    name = "refined_pattern_labels"
    reads = frozenset({"images", "tags"})
    settings: PatternRefinementSettings

    def __init__(self, labels: PatternLabels, settings: PatternRefinementSettings) -> None:
        super().__init__(settings, labels.split, labels=labels)
        self.labels = labels

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        def make(sample: Sample) -> bytes:
            labels = self.labels.load(env, sample.id)
            if len(sample.tags) == 1:
                ids = (BACKGROUND, *sample.tags)
                if self.settings.unary == "labels":
                    probabilities = labels_as_probabilities(labels, ids, self.settings.confidence)
                else:
                    probabilities = _from_scores(self.labels.maps.load(env, sample.id))
                refined = self.settings.crf.apply(read_image(sample.image), probabilities)
                labels = np.array(ids, dtype=np.uint8)[refined.argmax(0)]
            return encode_labels(sample, labels)

        return make

    def estimate(self, env: Environment) -> Estimate:
        samples = self.samples(env)
        single = sum(len(sample.tags) == 1 for sample in samples)
        seconds = self.settings.crf.seconds(env, classes=2) * single / env.runtime.threads
        return Estimate(seconds, 3e3 * len(samples))


def _from_scores(maps: PatternMap) -> npt.NDArray[np.float32]:
    """Probabilities of background and one class, (2, H, W)."""
    foreground = maps.at_size().sigmoid()
    probabilities: npt.NDArray[np.float32] = torch.cat([1 - foreground, foreground]).numpy()
    return probabilities


def pattern_labels(maps: PatternMaps) -> PatternLabels:
    """Masks of the projections as they are."""
    return PatternLabels(maps)


def refined_pattern_labels(labels: PatternLabels, settings: PatternRefinementSettings) -> RefinedPatternLabels:
    """Masks with edges where an image has one tag."""
    return RefinedPatternLabels(labels, settings)
