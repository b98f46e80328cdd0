"""The multi-label classifier whose last layer gives class activation maps."""

import torch
from torch import Tensor, nn

from tag2mask.networks.backbones import Backbone


class Classifier(nn.Module):
    """Backbone, a 1x1 convolution without bias to one score map per class, global average pooling.

    Args:
        backbone: gives the features.
        classes: number of foreground classes C.
        dropout: probability on the pooled features while training.
    """

    def __init__(self, backbone: Backbone, classes: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Conv2d(backbone.channels, classes, 1, bias=False)
        nn.init.normal_(self.head.weight, std=0.01)

    def forward(self, images: Tensor) -> Tensor:
        """Scores (logits) of whole images.

        The convolution is linear, so that pooling first gives the same scores at a fraction of the work.

        Shapes: (N, 3, H, W) normalised -> (N, C).
        """
        pooled = self.backbone(images).mean((2, 3), keepdim=True)
        scores: Tensor = self.head(self.dropout(pooled)).flatten(1)
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
