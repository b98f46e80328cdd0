"""Segmentation heads of DeepLab: from backbone features to class scores."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


class LargeFOV(nn.Sequential):
    """DeepLab-LargeFOV: a dilated 3x3 convolution, a 1x1 convolution and the classifier, with dropout between.

    Args:
        channels: channels of the features.
        classes: number of scores, background included.
        width: channels of the hidden layers, 1024 in the paper.
        dilation: of the 3x3 convolution, 12 at stride 8 in the paper.
        dropout: probability after each hidden layer.

    Shapes: (N, channels, h, w) -> (N, classes, h, w).
    """

    def __init__(self, channels: int, classes: int, *, width: int = 1024, dilation: int = 12, dropout: float = 0.5):
        super().__init__(
            nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation),
            nn.ReLU(),
            nn.Dropout2d(dropout),
            nn.Conv2d(width, width, 1),
            nn.ReLU(),
            nn.Dropout2d(dropout),
            nn.Conv2d(width, classes, 1),
        )
        *hidden, scores = (layer for layer in self if isinstance(layer, nn.Conv2d))
        initialise(hidden, [scores])


class ASPP(nn.Module):
    """DeepLab-ASPP: branches of different dilation whose scores are summed.

    Args:
        channels: channels of the features.
        classes: number of scores, background included.
        width: hidden channels of a branch; 0 makes a branch one 3x3 convolution (the paper's ResNet form), otherwise it
            is a LargeFOV head of that width (its VGG form, 1024 wide there).
        dilations: one per branch; 6, 12, 18, 24 at stride 8 in the paper.
        dropout: of the LargeFOV branches.

    Shapes: (N, channels, h, w) -> (N, classes, h, w).
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        width: int = 0,
        dilations: Sequence[int] = (6, 12, 18, 24),
        dropout: float = 0.5,
    ):
        super().__init__()
        if width:
            self.branches = nn.ModuleList(
                LargeFOV(channels, classes, width=width, dilation=dilation, dropout=dropout) for dilation in dilations
            )
        else:
            convolutions = [nn.Conv2d(channels, classes, 3, padding=rate, dilation=rate) for rate in dilations]
            initialise([], convolutions)
            self.branches = nn.ModuleList(convolutions)

    def forward(self, features: Tensor) -> Tensor:
        return torch.stack([branch(features) for branch in self.branches]).sum(0)


def initialise(hidden: Iterable[nn.Conv2d], scores: Iterable[nn.Conv2d]) -> None:
    """He's initialisation for hidden convolutions; those that give scores start near zero."""
    for convolution in hidden:
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        _zero_bias(convolution)
    for convolution in scores:
        nn.init.normal_(convolution.weight, std=0.01)
        _zero_bias(convolution)


def _zero_bias(convolution: nn.Conv2d) -> None:
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
