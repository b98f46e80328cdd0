"""Settings of the superpixel study."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from tag2mask.data.view import View, whole_view
from tag2mask.errors import SettingsError, unknown_choice
from tag2mask.evidence.classic_superpixels import ITERATIONS
from tag2mask.networks.vit_backbone import KeyCentre
from tag2mask.stages.backbone import BackboneSettings
from tag2mask.stages.superpixel.superpixels import SuperpixelSettings

FeatureKind = Literal["keys", "features", "rgb"]
"""Features that are compared between patches: keys of a transformer, the last features of a CNN, or mean colours."""


@dataclass(frozen=True)
class FeatureSet:
    """Features that superpixels are discovered in.

    Args:
        kind: "keys" of a vision transformer's last attention layer, "features" of a network's last layer, or "rgb", the
            mean of a patch's pixels, normalised as a network of ImageNet sees them.
        backbone: of "keys" and "features".
        long_side: of the photograph as the network sees it; both sides become whole patches.
        centre: what is subtracted from keys.
        cell: of "rgb": side of a patch in pixels; others have their network's stride.
    """

    kind: FeatureKind = "keys"
    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    long_side: int = 448
    centre: KeyCentre = "none"
    cell: int = 14

    def __post_init__(self) -> None:
        if self.kind not in get_args(FeatureKind):
            raise SettingsError(unknown_choice("kind of features", self.kind, get_args(FeatureKind)))
        if self.centre not in get_args(KeyCentre):
            raise SettingsError(unknown_choice("centre of keys", self.centre, get_args(KeyCentre)))
        if self.long_side < 1 or self.cell < 1:
            raise SettingsError(f"features: long_side {self.long_side} and cell {self.cell} must be above 0")

    @property
    def stride(self) -> int:
        """Side of a patch in pixels of what the network sees."""
        return self.cell if self.kind == "rgb" else self.backbone.output_stride

    @property
    def identity(self) -> str:
        """Identity of the weights in fingerprints.

        Raises:
            WeightsError: there are none.
        """
        return "" if self.kind == "rgb" else self.backbone.identity

    def view(self, size: tuple[int, int]) -> View:
        """The view of an image of (height, width) `size`: all of it, in whole patches."""
        resized = whole_view(size, long_side=self.long_side).resized
        patch = self.stride
        height, width = (max(patch, (side + patch // 2) // patch * patch) for side in resized)
        return View((height, width), False, (0, 0, height, width))


def _features() -> dict[str, FeatureSet]:
    def vit(name: str, patch: int) -> FeatureSet:
        return FeatureSet("keys", BackboneSettings(name=name, output_stride=patch))

    def cnn(name: str) -> FeatureSet:
        return FeatureSet("features", BackboneSettings(name=name, output_stride=8))

    return {
        "RGB": FeatureSet("rgb"),
        "CNN, supervised: EfficientNet-Lite0": cnn("tf_efficientnet_lite0"),
        "CNN, supervised: ResNet-50": cnn("resnet50"),
        "ViT-B/16, supervised": vit("vit_base_patch16_224.augreg_in1k", 16),
        "ViT-B/8, DINO": vit("vit_base_patch8_224.dino", 8),
        "ViT-B/16, MAE": vit("vit_base_patch16_224.mae", 16),
    }


@dataclass(frozen=True)
class StudySettings:
    """Settings of the study: the contenders, and what they are compared on.

    Args:
        photographs: how many of the training photographs with true masks are studied, evenly spread; 0 for all.
        superpixels: ours: features, CRF, and the tau whose number of superpixels other features are brought to. All
            that are discovered in features are refined by its CRF. Both orders of degrees are studied, whatever its
            `highest_first` says.
        taus: thresholds of ours, of highest degree first, and of Ncut.
        features: other features, by the name of their row. Where their weights cannot be had the row says so.
        match_photographs: photographs on which the other features' tau is searched, evenly spread; their true masks
            are not looked at.
        ncut_photographs: photographs that Ncut is run on, evenly spread; 0 for all.
        slic_sizes: sides of superpixels of SLIC, in pixels of a photograph of `reference_side`.
        lsc_sizes: the same of LSC.
        seeds_numbers: numbers of superpixels asked of SEEDS.
        iterations: of SLIC, LSC and SEEDS.
        reference_side: long side of the photographs that the sizes are meant for: on others they are scaled, so that
            the numbers of superpixels stay comparable; 0 takes them as they are.
        pictures: photographs shown in the figures.
    """

    photographs: int = 0
    superpixels: SuperpixelSettings = field(default_factory=SuperpixelSettings)
    taus: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    features: Mapping[str, FeatureSet] = field(default_factory=_features)
    match_photographs: int = 24
    ncut_photographs: int = 0
    slic_sizes: tuple[int, ...] = (50, 80, 100, 130)
    lsc_sizes: tuple[int, ...] = (50, 80, 100, 130)
    seeds_numbers: tuple[int, ...] = (30, 50, 80, 100)
    iterations: int = ITERATIONS
    reference_side: int = 500
    pictures: int = 6

    def __post_init__(self) -> None:
        for name in ("photographs", "ncut_photographs", "reference_side"):
            if getattr(self, name) < 0:
                raise SettingsError(f"{name}: {getattr(self, name)} must not be negative")
        for name in ("match_photographs", "iterations", "pictures"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name}: {getattr(self, name)} must be above 0")
        if not self.taus or sorted(set(self.taus)) != list(self.taus) or not 0 <= min(self.taus) <= max(self.taus) < 1:
            raise SettingsError(f"taus: {list(self.taus)} must be ascending, at least 0 and below 1")
        for name in ("slic_sizes", "lsc_sizes", "seeds_numbers"):
            if min(getattr(self, name), default=1) < 1:
                raise SettingsError(f"{name}: {list(getattr(self, name))} must be above 0")

    @property
    def ours(self) -> FeatureSet:
        """The features of ours."""
        chosen = self.superpixels
        return FeatureSet("keys", chosen.backbone, chosen.long_side, chosen.centre)
