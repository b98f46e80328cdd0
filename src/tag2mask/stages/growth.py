"""Settings of every training step of SEC, DSRG and the superpixel method: growing, CRF and expansion."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tag2mask.errors import SettingsError, unknown_choice
from tag2mask.refine.dense_crf import UNARIES
from tag2mask.stages.crf import CRFSettings
from tag2mask.supervision.growing import GROW_ON, OnlineLabels, RegionGrowing, SoftmaxCRF, SuperpixelGrowing


@dataclass(frozen=True)
class OnlineCRFSettings(CRFSettings):
    """The dense CRF of the segmenter's softmax at every training step, on the label grid.

    Args:
        shrink: widths in pixels are divided by this; 12 in SEC's and DSRG's codes, for a grid at stride 8.
        unary: "log", -log of the softmax, or "flat", minus the softmax, as DSRG's code has it.
    """

    shrink: float = 12.0
    unary: Literal["log", "flat"] = "log"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shrink <= 0:
            raise SettingsError(f"crf.shrink: {self.shrink} must be above 0")
        if self.unary not in UNARIES:
            raise SettingsError(unknown_choice("crf.unary", self.unary, UNARIES))
        if self.reference_side:
            raise SettingsError("crf.reference_side: leave it 0; shrink alone sets widths on the label grid")

    def module(self) -> SoftmaxCRF:
        """The CRF as a supervision's part."""
        return SoftmaxCRF(
            iterations=self.iterations,
            gaussian_sxy=self.gaussian_sxy,
            gaussian_weight=self.gaussian_weight,
            bilateral_sxy=self.bilateral_sxy,
            bilateral_srgb=self.bilateral_srgb,
            bilateral_weight=self.bilateral_weight,
            shrink=self.shrink,
            unary=self.unary,
        )


@dataclass(frozen=True)
class RegionGrowingSettings:
    """Deep seeded region growing at every step (DSRG, eq. 4 to 6).

    Args:
        enabled: grow; otherwise the seeds are learnt as they are.
        background_threshold: least probability with which a pixel beside background joins it.
        foreground_threshold: the same of every other class.
        grow_on: probabilities looked at: "crf", after the dense CRF, or "softmax", before it.
    """

    enabled: bool = True
    background_threshold: float = 0.99
    foreground_threshold: float = 0.85
    grow_on: Literal["crf", "softmax"] = "crf"

    def __post_init__(self) -> None:
        _check_thresholds(self.background_threshold, self.foreground_threshold)
        if self.grow_on not in GROW_ON:
            raise SettingsError(unknown_choice("growing.grow_on", self.grow_on, GROW_ON))


@dataclass(frozen=True)
class SuperpixelGrowingSettings:
    """Superpixel-guided region growing at every step (Kim, eq. 3.6 and 3.7).

    Args:
        enabled: grow; otherwise the seeds are learnt as they are.
        background_threshold: beta_bg: what background's mean probability over a superpixel must exceed.
        foreground_threshold: beta_fg: the same of every other class.
    """

    enabled: bool = True
    background_threshold: float = 0.7
    foreground_threshold: float = 0.7

    def __post_init__(self) -> None:
        _check_thresholds(self.background_threshold, self.foreground_threshold)


@dataclass(frozen=True)
class ExpansionSettings:
    """Weighted rank pooling (SEC, eq. 4 and 5): how much of the image a class is expected to cover.

    A decay d weighs the pixels of a class, sorted by probability, by 1, d, d², ... The paper's are for 41 x 41 cells.

    Args:
        enabled: take the loss.
        present_decay: of tagged classes.
        background_decay: of background.
        absent_decay: of all other classes; 0 takes the largest probability.
    """

    enabled: bool = True
    present_decay: float = 0.996
    background_decay: float = 0.999
    absent_decay: float = 0.0

    def __post_init__(self) -> None:
        for name, value in self.decays.items():
            if not 0 <= value <= 1:
                raise SettingsError(f"expansion.{name}: {value} must lie between 0 and 1")

    @property
    def decays(self) -> dict[str, float]:
        """The decays by the names the loss has for them."""
        return {name: getattr(self, name) for name in ("present_decay", "background_decay", "absent_decay")}


def _check_thresholds(background: float, foreground: float) -> None:
    for name, value in (("background_threshold", background), ("foreground_threshold", foreground)):
        if not 0 <= value <= 1:
            raise SettingsError(f"growing.{name}: {value} must lie between 0 and 1")


def region_growing(
    growing: RegionGrowingSettings, crf: OnlineCRFSettings, *, needs_crf: bool
) -> Callable[[], OnlineLabels]:
    """Makes the supervision of DSRG; without growing, and with what a boundary loss needs, that of SEC.

    Args:
        growing: thresholds.
        crf: of the softmax.
        needs_crf: compute the CRF even if growing does not look at it.
    """

    def make() -> OnlineLabels:
        grow = RegionGrowing(growing.background_threshold, growing.foreground_threshold) if growing.enabled else None
        used = needs_crf or (growing.enabled and growing.grow_on == "crf")
        return OnlineLabels(grow, crf.module() if used else None, grow_on=growing.grow_on)

    return make


def superpixel_growing(growing: SuperpixelGrowingSettings) -> Callable[[], OnlineLabels]:
    """Makes the supervision of the superpixel method."""

    def make() -> OnlineLabels:
        thresholds = growing.background_threshold, growing.foreground_threshold
        return OnlineLabels(SuperpixelGrowing(*thresholds) if growing.enabled else None)

    return make
