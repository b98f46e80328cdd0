"""Settings of the trainings that end with a segmenter."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from tag2mask.base.settings import LATER, UNSEEN
from tag2mask.engine.training import TrainingSettings
from tag2mask.errors import SettingsError, unknown_choice
from tag2mask.networks.segmenter import HeadSettings
from tag2mask.stages.backbone import BackboneSettings
from tag2mask.stages.trunks import Trunk, TrunkSettings, check_trunks
from tag2mask.stages.views import ViewSettings
from tag2mask.supervision.objective import OBJECTIVES


@dataclass(frozen=True)
class SegmenterTrainingSettings:
    """The segmentation network and its training, whatever it learns from and by which losses.

    Args:
        backbone: the pretrained network under it.
        head: DeepLab-LargeFOV or -ASPP, or the dilated one of SSDD.
        views: sizes and crops in training.
        label_stride: scores are upsampled to, and labels read at, every so many pixels.
        cache_features: compute features of the frozen blocks once; needs `backbone.frozen_until` and `views.whole`.
        training: optimiser and length.
    """

    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    head: HeadSettings = field(default_factory=HeadSettings)
    views: ViewSettings = field(default_factory=ViewSettings)
    label_stride: int = 1
    cache_features: bool = False
    training: TrainingSettings = field(default_factory=TrainingSettings)

    def __post_init__(self) -> None:
        if self.label_stride < 1:
            raise SettingsError(f"segmenter.label_stride: {self.label_stride} must be above 0")
        if self.cache_features and not self.backbone.frozen_until:
            raise SettingsError(
                "segmenter.cache_features: needs segmenter.backbone.frozen_until, the last frozen block"
            )
        if self.cache_features and not self.views.without_chance:
            raise SettingsError(
                "segmenter.cache_features: needs segmenter.views.whole or stretch, views without chance"
            )
        if self.cache_features and self.views.colour:
            raise SettingsError("segmenter.cache_features: goes with segmenter.views.colour 0 only")

    @property
    def trunk(self) -> Trunk:
        """The trunk that the head reads."""
        return Trunk(self.backbone)


@dataclass(frozen=True)
class ScaledSegmenterSettings(SegmenterTrainingSettings):
    """The same for trainings that show every crop in several sizes.

    Args:
        scales: every crop is shown in these sizes, losses are summed over them; labels grow on the first.
    """

    scales: tuple[float, ...] = field(default=(1.0,), metadata=LATER)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scales or min(self.scales) <= 0 or self.scales[0] != 1:
            raise SettingsError(f"segmenter.scales: {list(self.scales)} must be numbers above 0, the first of them 1")
        if self.cache_features and len(self.scales) > 1:
            raise SettingsError("segmenter.cache_features: features are kept at one scale, segmenter.scales has more")


@dataclass(frozen=True)
class SegmenterSettings(ScaledSegmenterSettings):
    """The segmentation network and its training on labels that another stage made.

    Args:
        loss: "cross_entropy", "balanced_seed" (DSRG) or "seed" (SEC).
        trunks: several frozen networks that the head reads side by side, in place of `backbone`; their features are
            computed once. Needs `views.whole`; empty for the one backbone.
    """

    loss: str = "cross_entropy"
    trunks: tuple[TrunkSettings, ...] = field(default=(), metadata=UNSEEN)

    def __post_init__(self) -> None:
        super().__post_init__()
        views = self.views
        check_trunks(
            "segmenter", self.trunks, crop=views.crop, without_chance=views.without_chance, colour=views.colour
        )
        if self.trunks and self.views.stretch:
            raise SettingsError("segmenter.trunks: photographs keep their aspect; views.stretch is not for them")
        if self.trunks and len(self.scales) > 1:
            raise SettingsError("segmenter.trunks: features are kept at one scale, segmenter.scales has more")
        if self.trunks and self.cache_features:
            raise SettingsError("segmenter.trunks: their features are kept by themselves; leave cache_features false")
        if self.loss not in OBJECTIVES:
            raise SettingsError(unknown_choice("segmenter.loss", self.loss, OBJECTIVES))

    @property
    def trunk(self) -> Trunk:
        return Trunk(self.backbone, self.trunks)

    @classmethod
    def on_whole_masks(cls, settings: SegmenterTrainingSettings) -> "SegmenterSettings":
        """The same network and training on masks without unlabelled pixels, whose loss is the plain cross-entropy."""
        shared: dict[str, Any] = {
            field.name: getattr(settings, field.name)
            for field in dataclasses.fields(settings)
            if field.name in {own.name for own in dataclasses.fields(cls)}
        }
        return cls(**shared | {"loss": "cross_entropy"})
