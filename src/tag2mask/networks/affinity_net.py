"""AffinityNet: features whose differences tell whether two pixels belong to one class (PSA)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tag2mask.data.resizing import resize_scores
from tag2mask.errors import SettingsError
from tag2mask.networks.backbones import Backbone


class AffinityNet(nn.Module):
    """Features of three depths of a backbone, brought to one grid and mixed (Ahn & Kwak, CVPR 2018).

    Every depth goes through a 1x1 convolution, all of them together through one more, each followed by ELU; no layer
    has a bias and the start is the published code's. Affinities are `tag2mask.evidence.affinity.pair_affinities` of the
    result.

    Args:
        backbone: gives the features.
        blocks: names of the blocks they are read after.
        widths: channels each depth is brought to.
        grid_stride: pixels of the image per cell of the result.

    Raises:
        SettingsError: a block does not exist, or blocks and widths differ in number.
    """

    def __init__(
        self, backbone: Backbone, blocks: Sequence[str], widths: Sequence[int] = (64, 128, 256), *, grid_stride: int = 8
    ) -> None:
        super().__init__()
        if not blocks or len(blocks) != len(widths) or min(widths) < 1 or grid_stride < 1:
            raise SettingsError(
                f"affinity: one width above 0 for each block and a grid_stride above 0 are needed, not {list(widths)} "
                f"for {list(blocks)} and {grid_stride}"
            )
        self.backbone = backbone
        self.blocks, self.widths, self.grid_stride = tuple(blocks), tuple(widths), grid_stride
        self.depths = nn.ModuleList(
            nn.Conv2d(backbone.channels_of(block), width, 1, bias=False)
            for block, width in zip(blocks, widths, strict=True)
        )
        self.mix = nn.Conv2d(sum(widths), sum(widths), 1, bias=False)
        for depth in self.depths:
            assert isinstance(depth, nn.Conv2d)
            nn.init.kaiming_normal_(depth.weight)
        nn.init.xavier_uniform_(self.mix.weight, gain=4)

    def forward(self, images: Tensor) -> Tensor:
        """Features on the grid.

        Shapes: (N, 3, H, W) normalised -> (N, sum of widths, ceil(H / grid_stride), ceil(W / grid_stride)).
        """
        grid = (-(-images.shape[2] // self.grid_stride), -(-images.shape[3] // self.grid_stride))
        found = []
        for convolve, features in zip(self.depths, self.backbone.features_at(images, self.blocks), strict=True):
            # A 1x1 convolution and bilinear resizing can change places; deep grids are the smaller ones.
            projected = convolve(features)
            # In float32: on a GPU the resizing's gradient would otherwise be summed up in half precision.
            found.append(F.elu(projected if projected.shape[2:] == grid else resize_scores(projected.float(), grid)))
        mixed: Tensor = F.elu(self.mix(torch.cat(found, dim=1)))
        return mixed

    def head_parameters(self) -> list[nn.Parameter]:
        """Parameters that start from nothing."""
        return [*self.depths.parameters(), *self.mix.parameters()]
