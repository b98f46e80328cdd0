"""AALR's adaptive affinity loss, forward and backward, a batch of 8 photographs, 21 classes, distance 4.
The peer takes the eight neighbours of all pixels at once, by unfold, and evaluates the formula as it is printed. Kept
memory is what autograd holds between the two passes.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.harness import Contender, Row, Setting, largest_difference, side_by_side
from tag2mask.losses.adaptive_affinity import DIFFERENT_WEIGHT, LEAST_PROBABILITY, adaptive_affinity_loss

TITLE = "Adaptive affinity loss"
PACKAGES = ("torch",)
IMAGES, CLASSES = 8, 21
DISTANCE, MARGIN = 4, 3.0

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


class Result(NamedTuple):
    """Gradient in the scores, and megabytes kept for the backward pass."""

    gradient: Tensor
    kept: float


def ours(p: Tensor, labels: Tensor, confidence: Tensor) -> Tensor:
    groups = adaptive_affinity_loss(p, labels, confidence, distance=DISTANCE, margin=MARGIN)
    return torch.stack([value / count.clamp(min=1) for value, count in groups.values()]).sum()


def neighbours(maps: Tensor, fill: float) -> Tensor:
    """(N, C, h, w) to (N, C, 8, h, w)."""
    padded = F.pad(maps, (DISTANCE,) * 4, value=fill)
    taken = F.unfold(padded, 3, dilation=DISTANCE).view(*maps.shape[:2], 9, *maps.shape[2:])
    return torch.cat([taken[:, :, :4], taken[:, :, 5:]], 2)


def unfolded(p: Tensor, labels: Tensor, confidence: Tensor) -> Tensor:
    own = labels[:, None, None].float()
    others = neighbours(own[:, 0], 255.0)
    r = torch.maximum(confidence[:, None, None], neighbours(confidence[:, None], 0.0))[:, 0]
    p_v, p_u = neighbours(p, 0.5), p[:, :, None]
    divergence: Tensor = torch.zeros(())
    for v, u in ((p_v, p_u), (1 - p_v, 1 - p_u)):
        v, u = v.clamp(LEAST_PROBABILITY, 1), u.clamp(LEAST_PROBABILITY, 1)
        divergence = divergence + (v * (v / u).log()).sum(1)
    one, other = own[:, 0], others[:, 0]
    known, same, background = (one != 255) & (other != 255), one == other, (one == 0) | (other == 0)
    alike, apart = r * divergence, DIFFERENT_WEIGHT * (MARGIN * r - divergence).relu()
    total = torch.zeros(())
    for cost, kind in ((alike, same), (apart, ~same)):
        for pairs in (known & kind & background, known & kind & ~background):
            total = total + (cost * pairs).sum() / pairs.sum().clamp(min=1)
    return total


def run(loss: Loss, scores: Tensor, labels: Tensor, confidence: Tensor) -> Result:
    leaf = scores.clone().requires_grad_()
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = loss(leaf.softmax(1), labels, confidence)
    value.backward()
    assert leaf.grad is not None
    return Result(leaf.grad, sum(storages.values()) / 2**20)


def agreement(one: Result, other: Result) -> str:
    difference = largest_difference(one.gradient, other.gradient)
    return f"{difference} of gradients; keeps {other.kept:,.0f} MB, ours {one.kept:,.0f}"


def rows(setting: Setting) -> Iterator[Row]:
    generator = torch.Generator().manual_seed(0)
    for side in (56, 112):
        scores = torch.randn(IMAGES, CLASSES, side, side, generator=generator) * 2
        # Blocks of labels, as objects are, a fifth of them unlabelled.
        blocks = torch.randint(0, 5, (IMAGES, 1, side // 8, side // 8), generator=generator).float()
        labels = F.interpolate(blocks, scale_factor=8, mode="nearest")[:, 0].long()
        labels[labels == 4] = 255
        confidence = torch.rand(labels.shape, generator=generator)
        contender = partial(run, scores=scores, labels=labels, confidence=confidence)
        peer = Contender("eight neighbours at once, by unfold", partial(contender, unfolded), agreement)
        case = f"{IMAGES} x {side} x {side}"
        yield from side_by_side(case, Contender("tag2mask", partial(contender, ours)), [peer], setting)
