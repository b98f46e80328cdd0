"""Masks from scores of background and the tagged classes: the largest wins, after the dense CRF or without."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from tag2mask.base.settings import LATER
from tag2mask.data.images import read_image
from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment
from tag2mask.engine.stage import Estimate
from tag2mask.errors import SettingsError
from tag2mask.evidence.cam import with_background_power
from tag2mask.stages.activation_maps import MakeActivationMaps
from tag2mask.stages.class_maps import ClassMapStage, largest_class, sum_to_one
from tag2mask.stages.crf import CRFSettings
from tag2mask.stages.labels import LabelStage, encode_labels


@dataclass(frozen=True)
class PowerSettings:
    """CAMs beside their background power map.

    Args:
        alpha: exponent of (1 - max CAM)^alpha.
    """

    alpha: float = 16.0

    def __post_init__(self) -> None:
        if self.alpha <= 0:
            raise SettingsError(f"alpha: {self.alpha} must be above 0")


class PowerLabels(LabelStage):
    """The largest of background power map and CAMs at the image's size: what a walk starts from."""

    name = "cam_labels"
    reads = frozenset({"tags"})
    settings: PowerSettings

    def __init__(self, cams: MakeActivationMaps, settings: PowerSettings) -> None:
        super().__init__(settings, cams.split, cams=cams)
        self.cams = cams

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        def make(sample: Sample) -> bytes:
            cams = self.cams.load(env, sample.id)
            scores = with_background_power(cams.at_size(), self.settings.alpha)
            return encode_labels(sample, largest_class(scores, (0, *cams.class_ids)).numpy())

        return make

    def estimate(self, env: Environment) -> Estimate:
        count = len(self.samples(env))
        return Estimate(0.01 * count, 3e3 * count)


@dataclass(frozen=True)
class MapLabelSettings:
    """The largest score needs no settings."""


class MapLabels(LabelStage):
    """The largest score at the image's size."""

    name = "walked_labels"
    reads = frozenset({"tags"})

    def __init__(self, scores: ClassMapStage) -> None:
        super().__init__(MapLabelSettings(), scores.split, scores=scores)
        self.scores = scores

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        return lambda sample: encode_labels(sample, self.scores.load(env, sample.id).largest())

    def estimate(self, env: Environment) -> Estimate:
        count = len(self.samples(env))
        return Estimate(0.01 * count, 3e3 * count)


@dataclass(frozen=True)
class MapCRFSettings(CRFSettings):
    """The dense CRF on scores.

    Args:
        contrast: scores are raised to this power first, and divided by their sum: which of them is the largest stays,
            but the CRF has more to overcome. 1 takes them as they are.
    """

    contrast: float = field(default=1.0, metadata=LATER)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.contrast <= 0:
            raise SettingsError(f"crf.contrast: {self.contrast} must be above 0")


class RefinedMapLabels(LabelStage):
    """The largest probability after the dense CRF on scores at the image's size."""

    name = "crf_labels"
    reads = frozenset({"images", "tags"})
    settings: MapCRFSettings

    def __init__(self, scores: ClassMapStage, settings: MapCRFSettings) -> None:
        super().__init__(settings, scores.split, scores=scores)
        self.scores = scores

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        def make(sample: Sample) -> bytes:
            scores = self.scores.load(env, sample.id)
            probabilities = scores.at_size()
            if self.settings.contrast != 1:
                probabilities = sum_to_one(probabilities**self.settings.contrast)
            refined = self.settings.apply(read_image(sample.image), probabilities.numpy())
            return encode_labels(sample, largest_class(torch.from_numpy(refined), scores.class_ids).numpy())

        return make

    def estimate(self, env: Environment) -> Estimate:
        count = len(self.samples(env))
        return Estimate(self.settings.seconds(env, classes=3) * count / env.runtime.threads, 3e3 * count)


def power_labels(cams: MakeActivationMaps, alpha: float) -> PowerLabels:
    """Masks of CAMs beside their background power map."""
    return PowerLabels(cams, PowerSettings(alpha))


def map_labels(scores: ClassMapStage) -> MapLabels:
    """Masks of scores as they are."""
    return MapLabels(scores)


def refined_map_labels(scores: ClassMapStage, settings: MapCRFSettings) -> RefinedMapLabels:
    """Masks of scores after the dense CRF."""
    return RefinedMapLabels(scores, settings)
