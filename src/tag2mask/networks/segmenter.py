"""The segmentation network: a backbone with a DeepLab head."""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from tag2mask.errors import SettingsError, unknown_choice
from tag2mask.networks.backbones import Backbone
from tag2mask.networks.heads import ASPP, LargeFOV

HEADS = ("largefov", "aspp")


@dataclass(frozen=True)
class HeadSettings:
    """The segmentation head.

    Args:
        kind: "largefov" or "aspp".
        width: hidden channels; 0 makes an ASPP branch a single convolution.
        dilations: one number for largefov, one per branch for aspp, in steps of the feature grid.
        dropout: probability after hidden layers.
    """

    kind: Literal["largefov", "aspp"] = "largefov"
    width: int = 1024
    dilations: tuple[int, ...] = (12,)
    dropout: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in HEADS:
            raise SettingsError(unknown_choice("head.kind", self.kind, HEADS))
        if self.kind == "largefov" and (len(self.dilations) != 1 or self.width < 1):
            raise SettingsError("head: largefov takes one dilation and a width above 0")
        if not self.dilations or min(self.dilations) < 1 or self.width < 0 or not 0 <= self.dropout < 1:
            raise SettingsError("head: dilations must be above 0, width not negative, dropout in [0, 1)")


class Segmenter(nn.Module):
    """Backbone and head.

    Args:
        backbone: gives the features.
        classes: number of scores, background included.
        head: the head's settings.
    """

    def __init__(self, backbone: Backbone, classes: int, head: HeadSettings) -> None:
        super().__init__()
        self.backbone = backbone
        self.classes = classes
        if head.kind == "largefov":
            self.head: nn.Module = LargeFOV(
                backbone.channels, classes, width=head.width, dilation=head.dilations[0], dropout=head.dropout
            )
        else:
            self.head = ASPP(
                backbone.channels, classes, width=head.width, dilations=head.dilations, dropout=head.dropout
            )

    def forward(self, inputs: Tensor, *, after: str | None = None) -> Tensor:
        """Scores (logits) on the backbone's grid.

        Args:
            inputs: normalised images (N, 3, H, W); features of block `after` when that is given.
            after: the block whose features the inputs are.

        Returns:
            (N, classes, h, w), h = ceil(H / stride).
        """
        features = self.backbone(inputs) if after is None else self.backbone.forward_from(inputs, after)
        scores: Tensor = self.head(features)
        return scores

    def head_parameters(self) -> list[nn.Parameter]:
        """Parameters that start from nothing."""
        return list(self.head.parameters())


def resize_scores(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resizing of maps whose cells tile the image (align_corners False).

    Shapes: (N, C, h, w) -> (N, C, *size).
    """
    return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
