"""VGG at output strides 8, 16 and 32, with the parameter names of timm's ``vgg11`` to ``vgg19_bn``.

Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015; the strides
follow DeepLab (Chen et al., "Semantic image segmentation with deep convolutional nets, atrous convolution and fully
connected CRFs", TPAMI 2018): the last pools keep the resolution and the convolutions after them are dilated instead.
"""

from torch import nn

STAGES: dict[str, tuple[int, ...]] = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
"""Number of 3x3 convolutions before each of the five pools."""

_WIDTHS = (64, 128, 256, 512, 512)
_BATCH_NORM = "_bn"

NAMES = tuple(name + suffix for name in STAGES for suffix in ("", _BATCH_NORM))
"""Names that `VGG` knows; ``_bn`` has batch norm after each convolution."""

OUTPUT_STRIDES = (8, 16, 32)
"""Strides of the features after the last pool."""


class VGG(nn.Module):
    """The convolutional part of VGG.

    A pool that halves the resolution is VGG's own (2x2, stride 2) but rounds up, so that features have
    ceil(size / stride) cells at any image size and equal timm's at multiples of 32. A pool that must keep the
    resolution is DeepLab's (3x3, stride 1, padding 1): a 2x2 window would shift the features by half a cell. At
    stride 8 pools 4 and 5 keep the resolution and the fifth stage has dilation 2; at stride 16 pool 5 alone does.
    (DeepLab's released networks use 3x3 windows in the halving pools, too; those weights are not timm's.)

    Attributes:
        features: layers in order, so that parameter names are timm's ``features.<n>.weight``.
        stage_ends: for each of the five stages, the index after its last layer (its pool is not part of it).

    Args:
        name: one of `NAMES`.
        output_stride: one of `OUTPUT_STRIDES`.
    """

    def __init__(self, name: str, output_stride: int) -> None:
        super().__init__()
        batch_norm = name.endswith(_BATCH_NORM)
        layers: list[nn.Module] = []
        self.stage_ends: list[int] = []
        channels, stride, dilation = 3, 1, 1
        for width, count in zip(_WIDTHS, STAGES[name.removesuffix(_BATCH_NORM)], strict=True):
            for _ in range(count):
                layers.append(nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation))
                if batch_norm:
                    layers.append(nn.BatchNorm2d(width))
                layers.append(nn.ReLU(inplace=True))
                channels = width
            self.stage_ends.append(len(layers))
            if stride < output_stride:
                layers.append(nn.MaxPool2d(2, stride=2, ceil_mode=True))
                stride *= 2
            else:
                layers.append(nn.MaxPool2d(3, stride=1, padding=1))
                dilation *= 2
        self.features = nn.Sequential(*layers)
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
