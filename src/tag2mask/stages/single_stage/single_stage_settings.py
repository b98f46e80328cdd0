"""Settings of a single stage: where it starts, its labels and its losses."""

from dataclasses import dataclass, field
from typing import get_args

from tag2mask.errors import SettingsError, unknown_choice
from tag2mask.losses.adaptive_affinity import Groups
from tag2mask.stages.backbone import Start, check_start
from tag2mask.stages.growth import OnlineCRFSettings
from tag2mask.stages.segmenter_settings import SegmenterTrainingSettings
from tag2mask.supervision.online_cams import OnlineCams


@dataclass(frozen=True)
class OnlineCamSettings:
    """The labels that the network's own CAMs give at every step (Zhang et al., RRM, AAAI 2020).

    Args:
        scales: the photograph is shown to the CAM head in these sizes beside the step's own, 1; only 1 with
            `segmenter.cache_features`.
        low_alpha: exponent of (1 - max CAM)^alpha that makes background strong: what is foreground even so is.
        high_alpha: exponent that makes it weak: what is background even so is.
        share: of the pixels that a class claims, those with the highest CAMs that may be labelled.
        cam_above: a CAM must be above it.
        background_above: the power map of the high alpha must be above it for background.
        probability_above: least probability, after the CRF, of a label.
        crf: the CRF that both backgrounds go through, on the label grid.
    """

    scales: tuple[float, ...] = (1.0, 0.5, 1.5, 2.0)
    low_alpha: float = 4.0
    high_alpha: float = 32.0
    share: float = 0.4
    cam_above: float = 0.1
    background_above: float = 0.8
    probability_above: float = 0.8
    crf: OnlineCRFSettings = field(default_factory=lambda: OnlineCRFSettings(shrink=1.0))

    def __post_init__(self) -> None:
        if 1 not in self.scales or min(self.scales) <= 0:
            raise SettingsError(f"online_cams.scales: {list(self.scales)} must be numbers above 0, one of them 1")
        if not 0 < self.low_alpha <= self.high_alpha:
            raise SettingsError(
                f"online_cams: 0 < low_alpha <= high_alpha is needed, not {self.low_alpha} and {self.high_alpha}"
            )
        if not 0 < self.share <= 1:
            raise SettingsError(f"online_cams.share: {self.share} must be above 0 and at most 1")
        for name in ("cam_above", "background_above", "probability_above"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"online_cams.{name}: {getattr(self, name)} must lie between 0 and 1")

    def module(self) -> OnlineCams:
        """The module that makes the labels."""
        return OnlineCams(
            self.crf.module(),
            low_alpha=self.low_alpha,
            high_alpha=self.high_alpha,
            share=self.share,
            cam_above=self.cam_above,
            background_above=self.background_above,
            probability_above=self.probability_above,
        )


@dataclass(frozen=True)
class AdaptiveAffinitySettings:
    """AALR's adaptive affinity loss (Zhang et al., ACM MM 2021).

    Args:
        enabled: take it.
        weight: of the loss.
        distance: to a pixel's eight neighbours, in cells of `single_stage.grid_stride`.
        margin: pairs of different labels are pushed apart up to this much, times how sure they are.
        groups: "four", pairs of different labels averaged over two groups, or "published", over one, as what the
            authors published computes.
    """

    enabled: bool = True
    weight: float = 0.1
    distance: int = 4
    margin: float = 3.0
    groups: Groups = "four"

    def __post_init__(self) -> None:
        if self.groups not in get_args(Groups):
            raise SettingsError(unknown_choice("affinity.groups", self.groups, get_args(Groups)))
        if self.weight < 0 or self.distance < 1 or self.margin < 0:
            raise SettingsError("affinity: weight and margin must not be negative, distance must be 1 or more")


@dataclass(frozen=True)
class ReassignSettings:
    """The label reassign loss: AALR's in name, this project's own reading in formula, for no source gives one.

    Args:
        enabled: take it, and let it weigh the cross-entropy.
        weight: of the loss.
        temperature: cosines are divided by it.
    """

    enabled: bool = True
    weight: float = 0.1
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if self.weight < 0 or self.temperature <= 0:
            raise SettingsError("reassign: weight must not be negative, temperature must be above 0")


@dataclass(frozen=True)
class SingleStageSettings:
    """Settings of a single stage beside those of its segmenter (RRM).

    Args:
        start: "classifier", whose backbone and head the network starts from, or "pretrained".
        segmentation_from: share of the steps after which the segmentation losses begin; from "pretrained" 0.5 in the
            paper, so that the CAMs have learnt something by then.
        dropout: probability on the features that the CAM head pools.
        grid_stride: pixels of the view per cell of the grid of AALR's two losses; a multiple of
            `segmenter.label_stride`.
    """

    start: Start = "classifier"
    segmentation_from: float = 0.0
    dropout: float = 0.0
    grid_stride: int = 8

    def __post_init__(self) -> None:
        check_start("single_stage.start", self.start)
        if not 0 <= self.segmentation_from < 1:
            raise SettingsError(f"single_stage.segmentation_from: {self.segmentation_from} must lie in [0, 1)")
        if not 0 <= self.dropout < 1:
            raise SettingsError(f"single_stage.dropout: {self.dropout} must lie in [0, 1)")
        if self.grid_stride < 1:
            raise SettingsError(f"single_stage.grid_stride: {self.grid_stride} must be above 0")


@dataclass(frozen=True)
class DenseEnergySettings:
    """RRM's regularised loss: what a dense CRF would charge for the segmenter's probabilities (optional there too).

    Args:
        enabled: take it.
        weight: of the loss.
        position_sxy: width in position of its kernel, pixels of the view.
        colour_srgb: width in colour, steps of 0..255.
        stride: pixels of the view per cell of its grid; a multiple of `segmenter.label_stride`.
    """

    enabled: bool = False
    weight: float = 1e-7
    position_sxy: float = 100.0
    colour_srgb: float = 15.0
    stride: int = 2

    def __post_init__(self) -> None:
        for name in ("position_sxy", "colour_srgb", "stride"):
            if getattr(self, name) <= 0:
                raise SettingsError(f"dense_energy.{name}: {getattr(self, name)} must be above 0")
        if self.weight < 0:
            raise SettingsError(f"dense_energy.weight: {self.weight} must not be negative")


@dataclass(frozen=True)
class SingleStageParts:
    """Parts of a single stage; AALR's two losses are None in RRM.

    Args:
        settings: where it starts and when its segmentation begins.
        online_cams: the labels of every step.
        dense_energy: RRM's optional loss.
        affinity: AALR's adaptive affinity loss.
        reassign: the label reassign loss.
    """

    settings: SingleStageSettings
    online_cams: OnlineCamSettings
    dense_energy: DenseEnergySettings | None = None
    affinity: AdaptiveAffinitySettings | None = None
    reassign: ReassignSettings | None = None


def check_parts(segmenter: SegmenterTrainingSettings, parts: SingleStageParts) -> None:
    """Check that settings go together.

    Raises:
        SettingsError: with the key.
    """
    if segmenter.head.kind == "aspp":
        raise SettingsError("segmenter.head.kind: a single stage reads a hidden layer, which aspp has not")
    if segmenter.cache_features and parts.online_cams.scales != (1.0,):
        raise SettingsError(
            f"online_cams.scales: {list(parts.online_cams.scales)} need photographs, but segmenter.cache_features "
            "keeps features at scale 1; take [1.0], or cache nothing"
        )
    strides = {"single_stage.grid_stride": parts.settings.grid_stride} if parts.affinity or parts.reassign else {}
    if parts.dense_energy:
        strides["dense_energy.stride"] = parts.dense_energy.stride
    for name, stride in strides.items():
        if stride % segmenter.label_stride:
            raise SettingsError(f"{name}: {stride} must be a multiple of segmenter.label_stride")
