"""The segmentation network: a backbone with a DeepLab head."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from tag2mask.base.settings import LATER
from tag2mask.errors import SettingsError, unknown_choice
from tag2mask.networks.backbones import Backbone
from tag2mask.networks.heads import ASPP, Dilated, LargeFOV
from tag2mask.networks.trunks import Trunks

HEADS = ("largefov", "aspp", "dilated")


@dataclass(frozen=True)
class HeadSettings:
    """The segmentation head.

    Args:
        kind: "largefov", "aspp" or "dilated" (SSDD's two dilated convolutions).
        width: hidden channels; 0 makes an ASPP branch a single convolution.
        dilations: one number for largefov and dilated, one per branch for aspp, in steps of the feature grid.
        dropout: probability after hidden layers.
        frozen_norm: of dilated: leave its batch norm as it is made (SSDD's code).
    """

    kind: Literal["largefov", "aspp", "dilated"] = "largefov"
    width: int = 1024
    dilations: tuple[int, ...] = (12,)
    dropout: float = 0.5
    frozen_norm: bool = field(default=False, metadata=LATER)

    def __post_init__(self) -> None:
        if self.kind not in HEADS:
            raise SettingsError(unknown_choice("head.kind", self.kind, HEADS))
        if self.kind != "aspp" and (len(self.dilations) != 1 or self.width < 1):
            raise SettingsError(f"head: {self.kind} takes one dilation and a width above 0")
        if self.frozen_norm and self.kind != "dilated":
            raise SettingsError("head.frozen_norm: goes with head.kind dilated, the only head with a norm")
        if not self.dilations or min(self.dilations) < 1 or self.width < 0 or not 0 <= self.dropout < 1:
            raise SettingsError("head: dilations must be above 0, width not negative, dropout in [0, 1)")


def make_head(channels: int, classes: int, settings: HeadSettings) -> LargeFOV | ASPP | Dilated:
    """A segmentation head with random weights.

    Args:
        channels: of the features.
        classes: number of scores, background included.
        settings: which, and how large.
    """
    if settings.kind == "aspp":
        return ASPP(channels, classes, width=settings.width, dilations=settings.dilations, dropout=settings.dropout)
    width, dilation, dropout = settings.width, settings.dilations[0], settings.dropout
    if settings.kind == "largefov":
        return LargeFOV(channels, classes, width=width, dilation=dilation, dropout=dropout)
    return Dilated(channels, classes, width=width, dilation=dilation, dropout=dropout, frozen_norm=settings.frozen_norm)


class Levels(NamedTuple):
    """Outputs of a segmenter at several levels.

    Args:
        features: of the backbone, what heads read: (N, channels, h, w).
        hidden: of the head, what its scores are made of: (N, width, h, w).
        scores: logits, (N, classes, h, w).
        early: features of an early block, (N, channels of it, h', w'); None where none was asked for.
    """

    features: Tensor
    hidden: Tensor
    scores: Tensor
    early: Tensor | None


class Segmenter(nn.Module):
    """Backbone and head.

    Args:
        backbone: gives the features; several networks side by side for one.
        classes: number of scores, background included.
        head: the head's settings.
    """

    def __init__(self, backbone: Backbone | Trunks, classes: int, head: HeadSettings) -> None:
        super().__init__()
        self.backbone = backbone
        self.classes = classes
        self.head: nn.Module = make_head(backbone.channels, classes, head)

    def forward(self, inputs: Any, *, after: str | None = None) -> Tensor:
        """Scores (logits) on the backbone's grid.

        Args:
            inputs: normalised images (N, 3, H, W), a tuple of them for several networks; features of block `after` when
                that is given.
            after: the block whose features the inputs are.

        Returns:
            (N, classes, h, w), h = ceil(H / stride).
        """
        features = self.backbone(inputs) if after is None else self.backbone.forward_from(inputs, after)
        scores: Tensor = self.head(features)
        return scores

    def levels(self, inputs: Any, *, after: str | None = None, early: str | None = None) -> Levels:
        """Features, hidden layer and scores in one pass; SSDD's difference networks read all of them.

        Args:
            inputs: as for `forward`.
            after: likewise.
            early: a block whose features are wanted too.

        Raises:
            SettingsError: the head has no hidden layer of its own, or there is no such block.
        """
        if not isinstance(self.head, LargeFOV | Dilated):
            raise SettingsError(
                "head.kind: aspp has several branches and no hidden layer; largefov and dilated have one"
            )
        backbone = self.backbone
        wanted = [backbone.block, *([early] if early else [])]
        features, *others = backbone.features_at(inputs, wanted, after=after)
        hidden = self.head.hidden(features)
        return Levels(features, hidden, self.head.classify(hidden), others[0] if others else None)

    def head_parameters(self) -> list[nn.Parameter]:
        """Parameters that start from nothing."""
        return list(self.head.parameters())
