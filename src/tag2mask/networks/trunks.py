"""Several frozen backbones read side by side: their features on one grid, standardised and joined."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from tag2mask.base.versions import Code
from tag2mask.data.resizing import to_grid
from tag2mask.data.view import IMAGE, tiled_view, to_view
from tag2mask.errors import SettingsError
from tag2mask.networks.feature_blocks import Backbone

CODE = Code("trunks")

JOINED = "joined"
"""The one block that several backbones have together."""

_LARGEST = 6.0
"""Standardised features are clamped to it: of a few channels single cells stand out a hundredfold."""


class Trunks(nn.Module):
    """Frozen backbones, each at its own input size, that heads read as if they were one.

    An image is shown to every backbone whole, its sides multiples of the backbone's stride, so that cells tile it.
    Features come on the grid of the first backbone: those of a finer one are averaged over its cells, those of a
    coarser one are read between. Channels are standardised by the statistics of the training images and clamped.

    Args:
        backbones: each ends at the block that is read.
        long_sides: of the image, in pixels, for each backbone; a multiple of its stride.

    Attributes:
        channels: of all backbones together.
        cells: of the grid, along an image's long side.
        mean: per channel, what is subtracted; 0 until `standardise`.
        std: per channel, what the rest is divided by; 1 until `standardise`.

    Raises:
        SettingsError: there is no backbone, or a long side is no multiple of the stride.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbones: Sequence[Backbone], long_sides: Sequence[int]) -> None:
        super().__init__()
        if not backbones:
            raise SettingsError("trunks: one network or more is needed")
        for backbone, side in zip(backbones, long_sides, strict=True):
            check_long_side(backbone.name, side, backbone.stride)
            backbone.freeze(backbone.block)
        self.parts = nn.ModuleList(backbones)
        self.long_sides = tuple(long_sides)
        self.name = " + ".join(backbone.name for backbone in backbones)
        self.block = JOINED
        self.channels = sum(backbone.channels for backbone in backbones)
        self.stride = backbones[0].stride
        self.cells = self.long_sides[0] // self.stride
        self.register_buffer("mean", torch.zeros(self.channels))
        self.register_buffer("std", torch.ones(self.channels))

    def train(self, mode: bool = True) -> Self:
        """Set the mode; frozen backbones stay in evaluation mode."""
        super().train(mode)
        for part in self.parts:
            part.eval()
        return self

    def standardise(self, mean: Tensor, std: Tensor) -> None:
        """Sets the statistics of the training images' features.

        Args:
            mean: per channel, (channels,).
            std: likewise, above 0.
        """
        self.mean.copy_(mean)
        self.std.copy_(std)

    def views(self, image: Tensor, scale: float = 1.0) -> tuple[Tensor, ...]:
        """An image as every backbone is shown it.

        Args:
            image: uint8 (3, H, W).
            scale: factor on all long sides.

        Returns:
            per backbone (1, 3, h, w), normalised as its weights expect.
        """
        parts = zip(self._backbones(), self.long_sides, strict=True)
        return tuple(part_view(image, backbone, side, scale) for backbone, side in parts)

    def forward(self, images: Sequence[Tensor]) -> Tensor:
        """Joined features.

        Args:
            images: as `views` gives them, several images stacked.

        Returns:
            (N, channels, h, w) on the first backbone's grid.
        """
        with torch.no_grad():
            return self.join([backbone(shown) for backbone, shown in zip(self._backbones(), images, strict=True)])

    def join(self, features: Sequence[Tensor]) -> Tensor:
        """Features of all backbones as one: (N, c, h', w') each -> float32 (N, channels, h, w) on the first's grid."""
        size = (features[0].shape[2], features[0].shape[3])
        joined = torch.cat([to_grid(part.float(), size) for part in features], dim=1)
        standard = (joined - self.mean[:, None, None]) / self.std[:, None, None]
        return standard.clamp(-_LARGEST, _LARGEST)

    def encode(self, images: Any, until: str) -> Tensor:
        """Joined features; `until` can be `JOINED` alone."""
        return self.features_at(images, [until])[0]

    def forward_from(self, features: Tensor, after: str) -> Tensor:
        """Output of `forward`, from itself: joined features are what is kept."""
        return self.features_at(features, [JOINED], after=after)[0]

    def features_at(self, inputs: Any, blocks: Sequence[str], *, after: str | None = None) -> list[Tensor]:
        """Joined features, the only ones there are.

        Args:
            inputs: images as `views` gives them, or joined features where `after` says so.
            blocks: `JOINED`, once or more.
            after: `JOINED` or None.

        Raises:
            SettingsError: another block is asked for.
        """
        for block in {*blocks, after or JOINED} - {JOINED}:
            raise SettingsError(f"block '{block}': several networks side by side have none but '{JOINED}'")
        joined = inputs if after else self(inputs)
        return [joined for _ in blocks]

    def _backbones(self) -> list[Backbone]:
        return [part for part in self.parts if isinstance(part, Backbone)]


def single(trunk: Backbone | Trunks) -> Backbone:
    """The one backbone that a network stands on, for what reads its blocks.

    Raises:
        SettingsError: it stands on several side by side.
    """
    if isinstance(trunk, Trunks):
        raise SettingsError("trunks: the blocks of a single network are read here, not of several side by side")
    return trunk


def check_long_side(name: str, long_side: int, stride: int) -> None:
    """Makes sure that a network's cells can tile an image.

    Raises:
        SettingsError: the long side is no multiple of the stride, with those next to it.
    """
    if long_side < stride or long_side % stride:
        below = max(long_side // stride, 1) * stride
        raise SettingsError(
            f"trunks: long_side {long_side} of '{name}' is no multiple of its stride {stride}; choices near it: "
            f"{below}, {below + stride}"
        )


def part_view(image: Tensor, backbone: Backbone, long_side: int, scale: float = 1.0) -> Tensor:
    """An image as a backbone is shown it: whole, normalised, its sides multiples of the stride.

    Shapes: uint8 (3, H, W) -> float32 (1, 3, h, w).
    """
    size = (image.shape[-2], image.shape[-1])
    view = tiled_view(size, backbone.stride, max(1, round(long_side * scale / backbone.stride)))
    return backbone.normalise(to_view(image, view, IMAGE, fill=0) / 255)[None]
