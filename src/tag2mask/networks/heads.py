"""Segmentation heads of DeepLab: from backbone features to class scores."""

from collections.abc import Iterable, Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tag2mask.base.versions import Code

CODE = Code("heads")


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
        self.width = width

    def hidden(self, features: Tensor) -> Tensor:
        """Hidden layer before the scores, DD-Net's high-level features: (N, channels, h, w) -> (N, width, h, w)."""
        for layer in list(self)[:-1]:
            features = layer(features)
        return features

    def classify(self, hidden: Tensor) -> Tensor:
        """Scores from the hidden layer: (N, width, h, w) -> (N, classes, h, w)."""
        scores: Tensor = self[-1](hidden)
        return scores


class FrozenBatchNorm(nn.BatchNorm2d):
    """Batch norm that stays as it is made, near the identity, in training too; its scale and shift learn."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        return super().train(False)


class Dilated(nn.Module):
    """SSDD's head: two dilated 3x3 convolutions, the hidden one with batch norm, borders reflected.

    Args:
        channels: channels of the features.
        classes: number of scores, background included.
        width: channels of the hidden layer, 512 in the paper.
        dilation: of both convolutions, 12 at stride 8 in the paper; on a smaller map as much as it can reflect.
        dropout: probability after the hidden layer.
        frozen_norm: leave the batch norm as it is made, near the identity, as the authors' code does.

    Shapes: (N, channels, h, w) -> (N, classes, h, w); h and w at least 2.
    """

    def __init__(
        self, channels: int, classes: int, *, width: int, dilation: int, dropout: float, frozen_norm: bool
    ) -> None:
        super().__init__()
        self.width, self.dilation = width, dilation
        self.first = nn.Conv2d(channels, width, 3, dilation=dilation, bias=False)
        self.norm = FrozenBatchNorm(width) if frozen_norm else nn.BatchNorm2d(width)
        self.dropout = nn.Dropout2d(dropout)
        self.scores = nn.Conv2d(width, classes, 3, dilation=dilation)
        initialise([self.first], [self.scores])

    def hidden(self, features: Tensor) -> Tensor:
        """Hidden layer before the scores, DD-Net's high-level features: (N, channels, h, w) -> (N, width, h, w)."""
        return self.dropout(F.relu(self.norm(self.first(self._reflected(features)))))

    def classify(self, hidden: Tensor) -> Tensor:
        """Scores from the hidden layer: (N, width, h, w) -> (N, classes, h, w)."""
        scores: Tensor = self.scores(self._reflected(hidden))
        return scores

    def forward(self, features: Tensor) -> Tensor:
        return self.classify(self.hidden(features))

    def _reflected(self, maps: Tensor) -> Tensor:
        # A map reflects no more than its size less one; what is missing beyond repeats the border.
        reach = [min(self.dilation, size - 1) for size in (maps.shape[3], maps.shape[2])]
        maps = F.pad(maps, (reach[0], reach[0], reach[1], reach[1]), mode="reflect")
        rest = [self.dilation - size for size in reach]
        return F.pad(maps, (rest[0], rest[0], rest[1], rest[1]), mode="replicate") if any(rest) else maps


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
