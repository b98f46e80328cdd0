"""Networks on whole images: several scales, mirrored too."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from tag2mask.base.versions import Code
from tag2mask.data.resizing import resize_scores
from tag2mask.data.view import IMAGE, to_view, whole_view
from tag2mask.errors import SettingsError, unknown_choice
from tag2mask.networks.backbones import Backbone
from tag2mask.networks.segmenter import Segmenter
from tag2mask.networks.trunks import Trunks

CODE = Code("inference")

MERGES = ("softmax", "logits", "softmax_twice")


@dataclass(frozen=True)
class ScaleSettings:
    """The sizes an image is shown to a network in.

    Args:
        long_side: long side in pixels at scale 1; 0 takes the photograph's own size. Several networks side by side have
            sizes of their own instead.
        scales: factors of that size.
        mirror: show the mirror image too.
        stretch: drop the aspect: every scale is a square of long_side times the scale.
    """

    long_side: int = 0
    scales: tuple[float, ...] = (1.0,)
    mirror: bool = True
    stretch: bool = False

    def __post_init__(self) -> None:
        if self.long_side < 0:
            raise SettingsError(f"long_side: {self.long_side} is negative; 0 takes the photograph's own size")
        if not self.scales or min(self.scales) <= 0:
            raise SettingsError(f"scales: {list(self.scales)} must be one or more numbers above 0")
        if self.stretch and not self.long_side:
            raise SettingsError("stretch: needs a long_side above 0")


@dataclass(frozen=True)
class InferenceSettings(ScaleSettings):
    """Settings of a segmenter's inference on an image.

    Args:
        merge: "softmax" averages probabilities over scales (Kim, DCP), "logits" sums scores (DSRG), "softmax_twice" is
            the softmax of summed probabilities (SSDD), which flattens them for the CRF.
        max_pixels: larger photographs are segmented at this many pixels and the scores upsampled.
    """

    long_side: int = 512
    merge: Literal["softmax", "logits", "softmax_twice"] = "softmax"
    max_pixels: int = 2_000_000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.merge not in MERGES:
            raise SettingsError(unknown_choice("merge", self.merge, MERGES))
        if self.max_pixels < 1:
            raise SettingsError(f"max_pixels: {self.max_pixels} must be above 0")


class Normalisation(Protocol):
    """Source of the normalisation that pretrained weights expect of images in [0, 1]: a backbone, or its facts."""

    @property
    def mean(self) -> tuple[float, ...]:
        """Of each channel."""

    @property
    def std(self) -> tuple[float, ...]:
        """Likewise."""


def normalise(image: Tensor, backbone: Normalisation) -> Tensor:
    """Pixels in 0..255 to what the backbone's pretrained weights expect.

    Shapes: (..., 3, H, W) -> the same, float32.
    """
    return transforms.normalize(image.float() / 255, list(backbone.mean), list(backbone.std))


def image_scales(
    image: Tensor, backbone: Backbone | Trunks, settings: ScaleSettings, device: torch.device
) -> Iterator[Any]:
    """An image at every scale, with its mirror image as a second item of the batch.

    Several networks side by side (`Trunks`) see it at their own long sides, times the scale.

    A batch holds nothing but one image at one scale: what else is in a batch can change the bits of a convolution.

    Args:
        image: uint8 (3, H, W).
        backbone: says how to normalise.
        settings: sizes and mirror.
        device: where the network is.

    Yields:
        normalised images, (1 or 2, 3, h, w); a tuple of them for `Trunks`, one for each network.
    """
    if isinstance(backbone, Trunks):
        for scale in settings.scales:
            shown = [part.to(device) for part in backbone.views(image, scale)]
            yield tuple(torch.cat([part, part.flip(3)]) if settings.mirror else part for part in shown)
        return
    size = (image.shape[-2], image.shape[-1])
    base = settings.long_side or max(size)
    for scale in settings.scales:
        view = whole_view(size, long_side=max(1, round(base * scale)), stretch=settings.stretch)
        batch = normalise(to_view(image, view, IMAGE, fill=0), backbone)[None].to(device)
        yield torch.cat([batch, batch.flip(3)]) if settings.mirror else batch


@torch.no_grad()
def segment(
    network: Segmenter, image: Tensor, settings: InferenceSettings, device: torch.device, autocast: torch.autocast
) -> Tensor:
    """Class probabilities of one image, over scales and its mirror image.

    Args:
        network: on the device, in evaluation mode.
        image: uint8 (3, H, W).
        settings: scales, mirror and how to merge.
        device: where the network is.
        autocast: precision to compute in.

    Returns:
        float32 probabilities (classes, h, w) on the CPU, (h, w) the image's size unless it has more than
        `max_pixels` pixels.
    """
    size = bounded_size((image.shape[-2], image.shape[-1]), settings.max_pixels)
    if not settings.long_side:
        settings = dataclasses.replace(settings, long_side=max(size))
    merged: Tensor | None = None
    for batch in image_scales(image, network.backbone, settings, device):
        with autocast:
            scores = network(batch)
        # One at a time and map after map: half the memory, and a softmax several times as fast as over channels last.
        for mirrored, own in enumerate(scores.float()):
            maps = (own.flip(-1) if mirrored else own).contiguous()
            values = resize_scores(maps[None], size)[0]
            if settings.merge != "logits":
                values = values.softmax(0)
            merged = values if merged is None else merged.add_(values)
    assert merged is not None
    if settings.merge != "softmax":
        return merged.softmax(0).cpu()
    return merged.div_(merged.sum(0, keepdim=True)).cpu()


def bounded_size(size: tuple[int, int], max_pixels: int) -> tuple[int, int]:
    """A size of the same aspect with at most `max_pixels` pixels (each side at least 1)."""
    factor = min(1.0, (max_pixels / (size[0] * size[1])) ** 0.5)
    height = max(1, min(int(size[0] * factor), max_pixels))
    return height, max(1, min(int(size[1] * factor), max_pixels // height))


def label_map(probabilities: Tensor, size: tuple[int, int]) -> Tensor:
    """Class of the largest probability at a size, after bilinear upsampling.

    Classes are upsampled one at a time, so that a large image does not need all its maps in memory at once.

    Shapes: (classes, h, w) -> uint8 (H, W). The lowest class wins a tie.
    """
    if probabilities.shape[-2:] == size:
        # The same as `argmax`, which takes four times as long over the first dimension.
        return probabilities.max(0).indices.to(torch.uint8)
    best = resize_scores(probabilities[None, :1], size)[0, 0]
    labels = torch.zeros(size, dtype=torch.uint8)
    for index in range(1, len(probabilities)):
        values = resize_scores(probabilities[None, index : index + 1], size)[0, 0]
        labels.masked_fill_(values > best, index)
        best = torch.maximum(best, values)
    return labels
