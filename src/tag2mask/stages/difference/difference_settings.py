"""Settings of SSDD's difference detection: the network, and the rule by which two masks become one."""

from dataclasses import dataclass, field

from torch import Tensor

from tag2mask.errors import SettingsError, unknown_choice
from tag2mask.networks.difference_net import DifferenceNet
from tag2mask.networks.heads import Dilated, LargeFOV
from tag2mask.networks.segmenter import HeadSettings, Segmenter
from tag2mask.networks.trunks import single
from tag2mask.refine.difference import refine_pair
from tag2mask.stages.backbone import BackboneSettings
from tag2mask.stages.segmenter_settings import SegmenterTrainingSettings
from tag2mask.supervision.objective import OBJECTIVES

_NO_HIDDEN_LAYER = "segmenter.head.kind: difference detection reads a hidden layer, which aspp has not"


def _paired_head() -> HeadSettings:
    """The head of SSDD's code."""
    return HeadSettings(kind="dilated", width=512, dropout=0.0)


@dataclass(frozen=True)
class DynamicSegmenterSettings(SegmenterTrainingSettings):
    """The segmenter that DD-Nets learn beside, by default with the head of SSDD's code on a grid of stride 4.

    Args:
        head: one with a hidden layer, largefov or dilated.
    """

    head: HeadSettings = field(default_factory=_paired_head)
    label_stride: int = 4


@dataclass(frozen=True)
class PairedSegmenterSettings(DynamicSegmenterSettings):
    """The same of the static part, whose segmenter learns fixed masks by a loss of choice.

    Args:
        loss: "cross_entropy", "balanced_seed" (DSRG) or "seed" (SEC).
    """

    loss: str = "cross_entropy"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss not in OBJECTIVES:
            raise SettingsError(unknown_choice("segmenter.loss", self.loss, OBJECTIVES))


def check_paired(segmenter: SegmenterTrainingSettings) -> None:
    """Check that DD-Nets can learn beside a segmenter.

    Raises:
        SettingsError: its head has no hidden layer.
    """
    if segmenter.head.kind == "aspp":
        raise SettingsError(_NO_HIDDEN_LAYER)


@dataclass(frozen=True)
class DifferenceNetSettings:
    """DD-Net, which tells from an image and one mask of a pair where the other one differs.

    It learns at the rate of new layers, by an optimiser of its own.

    Args:
        width: channels of its hidden layers, 256 in the paper.
        low_level: show it features of an early block of the backbone beside the segmentation head's hidden layer.
        low_block: that block; empty takes the backbone's first. Of no use without `low_level`.
        frozen_norm: leave its batch norms as they are made, near identity, as the authors' code does.
    """

    width: int = 256
    low_level: bool = True
    low_block: str = ""
    frozen_norm: bool = False

    def __post_init__(self) -> None:
        if self.width < 1:
            raise SettingsError(f"difference.width: {self.width} must be above 0")

    def low(self, backbone: BackboneSettings, *, cached: bool = False) -> str:
        """The block of the low-level features by its name; empty without such features.

        Args:
            backbone: the segmenter's.
            cached: whether its features are kept, which those of frozen blocks alone can be.

        Raises:
            SettingsError: the backbone has no such block, or its features are to be kept and it is not frozen.
        """
        if not self.low_level:
            return ""
        facts, until = backbone.facts, backbone.frozen_until
        low = self.low_block or facts.blocks[0]
        facts.position(low)  # raises where there is no such block
        frozen = facts.blocks[: facts.position(until) + 1] if until else ()
        if cached and low not in frozen:
            raise SettingsError(
                f"difference.low_block: '{low}' is trained, and segmenter.cache_features keeps features of frozen "
                f"blocks alone; choices: {', '.join(frozen)}"
            )
        return low

    def create(self, network: Segmenter, low: str) -> DifferenceNet:
        """A DD-Net with random weights for a segmenter's features and classes.

        Args:
            network: whose head's hidden layer it reads, and whose backbone.
            low: block of the low-level features (`low`); empty for none.

        Raises:
            SettingsError: the head has no hidden layer of its own.
        """
        if not isinstance(network.head, LargeFOV | Dilated):
            raise SettingsError(_NO_HIDDEN_LAYER)
        return DifferenceNet(
            network.head.width,
            single(network.backbone).channels_of(low) if low else 0,
            network.classes,
            width=self.width,
            frozen_norm=self.frozen_norm,
        )


@dataclass(frozen=True)
class PairSettings:
    """Settings of the merging of a pair of masks, before and after, into one (SSDD, eq. 2 and 3).

    Args:
        bias: added to w, so that of changes as predictable from one mask as from the other `after` is taken.
        background_bias: added where `after` has background, subtracted where `before` has.
        class_terms: keep the pixels of a class that the change loses.
        lost_below: it is lost if less than this share of its pixels remains.
    """

    bias: float = 0.1
    background_bias: float = 0.1
    class_terms: bool = True
    lost_below: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.lost_below <= 1:
            raise SettingsError(f"lost_below: {self.lost_below} must lie between 0 and 1")

    def refine(
        self, before: Tensor, after: Tensor, logits_before: Tensor, logits_after: Tensor, present: Tensor
    ) -> Tensor:
        """The refined masks; arguments, result and errors are those of `refine.difference.refine_pair`."""
        return refine_pair(
            before,
            after,
            logits_before,
            logits_after,
            present,
            bias=self.bias,
            background_bias=self.background_bias,
            class_bias=float(self.class_terms),
            share=self.lost_below,
        )
