"""The multi-label classifier whose last layer gives class activation maps."""

import torch
from torch import Tensor, nn

from tag2mask.base.versions import Code
from tag2mask.networks.backbones import Backbone
from tag2mask.networks.heads import initialise
from tag2mask.networks.trunks import Trunks

CODE = Code("classifier")


class ClassifierBlock(nn.Sequential):
    """The convolutional block that stands in the place of VGG's fully connected layers.

    Kim, dissertation 2022, section 2.4.1: 3x3 convolutions fc6 and fc7, and fc8, a 1x1 convolution to one score map per
    class. Only the dilation of fc6 tells dilated blocks from the standard one (section 2.3.1). The text gives neither
    biases nor dropout **[resolved]**: all three layers have a bias, as VGG's have, and dropout comes after fc6 and fc7,
    as in VGG, of whole channels as where features are pooled.

    Args:
        channels: channels of the features.
        classes: number of foreground classes C.
        width: channels of fc6 and fc7, 1024 in the text.
        dilation: of fc6; 1 is the standard block.
        dropout: probability after fc6 and fc7 while training.

    Shapes: (N, channels, h, w) -> (N, C, h, w).
    """

    def __init__(self, channels: int, classes: int, *, width: int, dilation: int = 1, dropout: float = 0.0) -> None:
        hidden = [
            nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation),
            nn.Conv2d(width, width, 3, padding=1),
        ]
        scores = nn.Conv2d(width, classes, 1)
        initialise(hidden, [scores])
        dropped = [nn.Sequential(layer, nn.ReLU(), nn.Dropout2d(dropout)) for layer in hidden]
        super().__init__(*dropped, scores)


class Classifier(nn.Module):
    """Backbone, one score map per class, global average pooling.

    Args:
        backbone: gives the features; several networks side by side for one.
        classes: number of foreground classes C.
        dropout: probability while training, on the pooled features or after a block's hidden layers.
        width: hidden channels of the block that gives the score maps (`ClassifierBlock`); 0 takes a 1x1 convolution
            without bias.
    """

    def __init__(self, backbone: Backbone | Trunks, classes: int, *, dropout: float = 0.0, width: int = 0) -> None:
        super().__init__()
        self.backbone = backbone
        self.width = width
        self.dropout = nn.Dropout(0.0 if width else dropout)
        self.head: nn.Conv2d | ClassifierBlock
        if width:
            self.head = ClassifierBlock(backbone.channels, classes, width=width, dropout=dropout)
        else:
            self.head = nn.Conv2d(backbone.channels, classes, 1, bias=False)
            nn.init.normal_(self.head.weight, std=0.01)

    def forward(self, images: Tensor) -> Tensor:
        """Scores (logits) of whole images.

        Shapes: (N, 3, H, W) normalised -> (N, C).
        """
        return self.scores(self.backbone(images))

    def scores(self, features: Tensor, inside: Tensor | None = None) -> Tensor:
        """Scores (logits) from the backbone's features: the mean of the score maps.

        Args:
            features: (N, channels, h, w).
            inside: the cells that count, bool (N, h, w); all by default.

        Returns:
            (N, C).
        """
        if self.width:
            return pooled(self.head(features), inside)
        # The convolution is linear, so that pooling first gives the same scores at a fraction of the work.
        scores: Tensor = self.head(self.dropout(pooled(features, inside)[:, :, None, None])).flatten(1)
        return scores

    def score_maps(self, images: Tensor) -> Tensor:
        """Score of every class at every position, before any ReLU.

        Shapes: (N, 3, H, W) normalised -> (N, C, h, w), h = ceil(H / stride).
        """
        maps: Tensor = self.head(self.backbone(images))
        return maps

    def head_parameters(self) -> list[nn.Parameter]:
        """Parameters that start from nothing."""
        return list(self.head.parameters())

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Probability of every class being in the image, (N, C)."""
        return self.forward(images).sigmoid()


def pooled(maps: Tensor, inside: Tensor | None = None) -> Tensor:
    """Global average pooling.

    Args:
        maps: (N, C, h, w).
        inside: the cells that count, bool (N, h, w); all by default.

    Returns:
        (N, C).
    """
    if inside is None:
        return maps.mean((2, 3))
    weights = inside[:, None].to(maps.dtype)
    return (maps * weights).sum((2, 3)) / weights.sum((2, 3)).clamp(min=1)
