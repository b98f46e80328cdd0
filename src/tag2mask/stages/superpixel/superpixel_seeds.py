"""Seeds of the superpixel method: CAMs above a threshold, and a superpixel or low saliency as background."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tag2mask.data.resizing import resize_scores
from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment
from tag2mask.engine.stage import Estimate
from tag2mask.errors import SettingsError, unknown_choice
from tag2mask.evidence.seeds import add_background, superpixel_seeds
from tag2mask.stages.activation_maps import MakeActivationMaps
from tag2mask.stages.labels import LabelStage, encode_labels
from tag2mask.stages.maps import MapStage
from tag2mask.stages.superpixel.superpixels import MakeSuperpixels


@dataclass(frozen=True)
class SuperpixelSeedSettings:
    """Seeds of the superpixel method (Kim eq. 3.4 and 3.5).

    Args:
        foreground_threshold: alpha: above it a pixel is a seed of the class with the largest CAM.
        background: "superpixel", the one that is least like any object, or "saliency", which DSRG takes.
        background_below: of "saliency": pixels of less saliency that no class claims are background.
    """

    foreground_threshold: float = 0.5
    background: Literal["superpixel", "saliency"] = "superpixel"
    background_below: float = 0.06

    def __post_init__(self) -> None:
        if self.background not in ("superpixel", "saliency"):
            raise SettingsError(unknown_choice("seeds.background", self.background, ("superpixel", "saliency")))
        for name in ("foreground_threshold", "background_below"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"seeds.{name}: {getattr(self, name)} must lie between 0 and 1")


class MakeSuperpixelSeeds(LabelStage):
    """CAMs above a threshold, and the superpixel with the lowest CAM as background, at the image's size."""

    name = "superpixel_seeds"
    reads = frozenset({"tags"})
    settings: SuperpixelSeedSettings

    def __init__(
        self,
        cams: MakeActivationMaps,
        superpixels: MakeSuperpixels,
        settings: SuperpixelSeedSettings,
        saliency: MapStage | None,
    ) -> None:
        inputs = {"saliency": saliency} if saliency else {}
        super().__init__(settings, cams.split, cams=cams, superpixels=superpixels, **inputs)
        self.cams, self.superpixels, self.saliency = cams, superpixels, saliency

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        settings = self.settings

        def make(sample: Sample) -> bytes:
            cams = self.cams.load(env, sample.id)
            maps, superpixels = cams.at_size(), self.superpixels.load(env, sample.id)
            labels = superpixel_seeds(
                maps, cams.class_ids, superpixels, settings.foreground_threshold, background=self.saliency is None
            )
            if self.saliency is not None:
                saliency = resize_scores(self.saliency.load(env, sample.id)[None, None], cams.size)[0, 0]
                labels = add_background(labels, saliency, below=settings.background_below)
            return encode_labels(sample, labels.numpy())

        return make

    def estimate(self, env: Environment) -> Estimate:
        count = len(self.samples(env))
        return Estimate(0.01 * count, 3e3 * count)


def seeds_by_superpixels(
    cams: MakeActivationMaps,
    superpixels: MakeSuperpixels,
    settings: SuperpixelSeedSettings,
    saliency: MapStage | None = None,
) -> MakeSuperpixelSeeds:
    """Seeds of the superpixel method, with a saliency map in the place of its background rule if one is given."""
    return MakeSuperpixelSeeds(cams, superpixels, settings, saliency)
