"""Pseudo-labels from class activation maps: thresholds, then the dense CRF."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tag2mask.data.classes import BACKGROUND
from tag2mask.data.images import read_image
from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment
from tag2mask.engine.stage import Estimate
from tag2mask.errors import SettingsError
from tag2mask.evidence.cam import background_power, cam_labels
from tag2mask.stages.activation_maps import ActivationMaps, MakeActivationMaps
from tag2mask.stages.crf import CRFSettings
from tag2mask.stages.labels import LabelStage, encode_labels, labels_as_probabilities


@dataclass(frozen=True)
class SeedSettings:
    """Thresholds that turn CAMs into pseudo-labels.

    Args:
        foreground_threshold: above it a pixel takes the class of its largest CAM.
        background_threshold: up to it a pixel is background; between the two it stays unlabelled.
    """

    foreground_threshold: float = 0.2
    background_threshold: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.background_threshold <= self.foreground_threshold <= 1:
            raise SettingsError(
                "seeds: 0 <= background_threshold <= foreground_threshold <= 1 is needed, not "
                f"{self.background_threshold} and {self.foreground_threshold}"
            )


class MakeSeeds(LabelStage):
    """CAMs under thresholds, at the image's size."""

    name = "seeds"
    reads = frozenset({"tags"})
    settings: SeedSettings

    def __init__(self, cams: MakeActivationMaps, settings: SeedSettings) -> None:
        super().__init__(settings, cams.split, cams=cams)
        self.cams = cams

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        def make(sample: Sample) -> bytes:
            cams = self.cams.load(env, sample.id)
            labels = cam_labels(
                cams.at_size(),
                cams.class_ids,
                foreground_threshold=self.settings.foreground_threshold,
                background_threshold=self.settings.background_threshold,
            )
            return encode_labels(sample, labels.numpy())

        return make

    def estimate(self, env: Environment) -> Estimate:
        count = len(self.samples(env))
        return Estimate(0.01 * count, 3e3 * count)


def cam_seeds(cams: MakeActivationMaps, settings: SeedSettings) -> MakeSeeds:
    """Pseudo-labels from CAMs by thresholds."""
    return MakeSeeds(cams, settings)


@dataclass(frozen=True)
class RefinementSettings:
    """Settings of the dense CRF that turns CAMs into pseudo-labels with edges.

    Args:
        unary: what the CRF starts from: "labels", the thresholded seeds, each trusted with `confidence` and unlabelled
            pixels with nothing; "threshold", the CAMs themselves beside a constant background of the seeds' background
            threshold; "power", beside the background (1 - max CAM)^alpha (PSA).
        confidence: probability of a seed's label.
        alpha: of the power map.
        crf: the CRF's kernels.
    """

    unary: Literal["labels", "threshold", "power"] = "labels"
    confidence: float = 0.7
    alpha: float = 4.0
    crf: CRFSettings = field(default_factory=CRFSettings)

    def __post_init__(self) -> None:
        if self.unary not in ("labels", "threshold", "power"):
            raise SettingsError(f"refinement.unary: '{self.unary}' is not one of labels, threshold, power")
        if not 0 < self.confidence < 1 or self.alpha <= 0:
            raise SettingsError("refinement: confidence must lie between 0 and 1, alpha above 0")


class RefineSeeds(LabelStage):
    """The dense CRF over background and the tagged classes, at the image's size."""

    name = "refined_labels"
    reads = frozenset({"images", "tags"})
    settings: RefinementSettings

    def __init__(self, cams: MakeActivationMaps, seeds: MakeSeeds, settings: RefinementSettings) -> None:
        super().__init__(settings, seeds.split, cams=cams, seeds=seeds)
        self.cams, self.seeds = cams, seeds

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        def make(sample: Sample) -> bytes:
            ids = np.array([BACKGROUND, *sample.tags], dtype=np.uint8)
            if self.settings.unary == "labels":
                seeds = self.seeds.load(env, sample.id)
                probabilities = labels_as_probabilities(seeds, ids.tolist(), self.settings.confidence)
            else:
                probabilities = self._from_scores(self.cams.load(env, sample.id)).numpy()
            refined = self.settings.crf.apply(read_image(sample.image), probabilities)
            return encode_labels(sample, ids[refined.argmax(0)])

        return make

    def _from_scores(self, cams: ActivationMaps) -> Tensor:
        maps = cams.at_size()
        if self.settings.unary == "power":
            background = background_power(maps, self.settings.alpha)
        else:
            background = torch.full(cams.size, self.seeds.settings.background_threshold)
        scores = torch.cat([background[None], maps])
        return scores / scores.sum(0, keepdim=True).clamp(min=1e-6)

    def estimate(self, env: Environment) -> Estimate:
        count = len(self.samples(env))
        return Estimate(self.settings.crf.seconds(env, classes=3) * count / env.runtime.threads, 3e3 * count)


def refine_seeds(cams: MakeActivationMaps, seeds: MakeSeeds, settings: RefinementSettings) -> RefineSeeds:
    """Pseudo-labels refined by the dense CRF."""
    return RefineSeeds(cams, seeds, settings)
