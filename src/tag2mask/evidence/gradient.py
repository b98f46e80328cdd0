"""Saliency by a classifier's gradient: where its scores depend on the features of one of its blocks.

Simonyan, Vedaldi and Zisserman, "Deep inside convolutional networks: visualising image classification models and
saliency maps", ICLR workshop 2014, section 3.1, take the largest absolute gradient over the image's channels; SEC
(Kolesnikov and Lampert, ECCV 2016) takes it at the features after VGG-16's conv4_1, filters it with a median and calls
the least salient tenth of an image background.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from tag2mask.base.versions import Code

CODE = Code("gradient")


class Chain(Protocol):
    """A backbone that can be left after a block and entered there again."""

    def encode(self, images: Tensor, until: str) -> Tensor:
        """Features after a block."""

    def forward_from(self, features: Tensor, after: str) -> Tensor:
        """Features of the last block, from those after another."""


class Scorer(Protocol):
    """A classifier, as `gradient_saliency` needs it."""

    @property
    def backbone(self) -> Chain:
        """The backbone that gives the features."""

    def scores(self, features: Tensor) -> Tensor:
        """Scores of the classes from features of the backbone's last block."""


def gradient_saliency(network: Scorer, images: Tensor, block: str, *, median: int = 3) -> Tensor:
    """Median-filtered max over channels of |d sum(scores) / d features|, divided by its maximum.

    No gradient is left on the network's parameters, and the caller may have gradients switched off.

    Args:
        network: in evaluation mode, its backbone a chain of blocks; blocks after `block` must not be frozen.
        images: (N, 3, H, W), normalised.
        block: the block whose features are looked at, one of the backbone's `blocks`.
        median: side of the median filter's window in cells of the features, odd; 1 filters nothing. At the border the
            nearest values go on.

    Returns:
        float32 (N, h, w) in [0, 1], at the resolution of the block's features; 0 everywhere where no feature matters.

    Raises:
        SettingsError: there is no such block, or this kind of backbone cannot be entered at one.
        ValueError: the window's side is not odd, or a block after `block` is frozen.
    """
    if median < 1 or median % 2 == 0:
        raise ValueError(f"a median filter needs an odd window, not one of {median}")
    with torch.no_grad():
        features = network.backbone.encode(images, block)
    with torch.enable_grad():
        features = features.detach().requires_grad_()
        last = network.backbone.forward_from(features, block)
        scores = network.scores(last)
        (gradient,) = torch.autograd.grad(scores.sum(), features, allow_unused=True)
    if gradient is None:
        raise ValueError(f"no gradient reaches block '{block}': a block after it is frozen")
    largest = gradient.float().abs().amax(1)
    filtered = _median_filter(largest, median) if median > 1 else largest
    peak = filtered.amax((1, 2), keepdim=True)
    return torch.where(peak > 0, filtered / peak, 0)


def _median_filter(maps: Tensor, side: int) -> Tensor:
    """Median over a window around each cell, (N, h, w) -> (N, h, w); on the maps' device, where SciPy's is not."""
    height, width = maps.shape[1:]
    padded = F.pad(maps[:, None], (side // 2,) * 4, mode="replicate")
    return F.unfold(padded, side).median(1).values.unflatten(1, (height, width))
