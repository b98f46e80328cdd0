"""Networks of timm whose stages can be read but not entered."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from tag2mask.base.versions import Code
from tag2mask.networks.feature_blocks import Backbone, BackboneIdentity, Block, Shape

CODE = Code("staged backbones")


class StagedBackbone(Backbone):
    """Any other network of timm whose stages can be read at a chosen stride, but not entered halfway.

    Images whose sides are no multiples of the stride are padded at the right and the bottom with zeros, because the
    patch stems of some families would drop the rest.

    Args:
        network: model with timm's ``forward_intermediates`` and ``feature_info``.
        blocks: timm's feature stages up to the one to read, each with its module as its only part.
        identity: where the network comes from.
        aliases: see `Backbone`.
        train_norm_affine: likewise.
    """

    def __init__(
        self,
        network: nn.Module,
        blocks: Sequence[Block],
        identity: BackboneIdentity,
        *,
        aliases: Mapping[str, str] | None = None,
        train_norm_affine: bool = False,
    ) -> None:
        owned = _owned_parameters(network, blocks)
        super().__init__(network, owned, identity, aliases=aliases, train_norm_affine=train_norm_affine)

    def forward(self, images: Tensor) -> Tensor:
        return self.features_at(images, [self.block])[0]

    def features_at(self, inputs: Tensor, blocks: Sequence[str], *, after: str | None = None) -> list[Tensor]:
        if after is not None:
            raise self._not_cacheable()
        network: Any = self.network
        height, width = inputs.shape[2:]
        padded = F.pad(inputs, (0, -width % self.stride, 0, -height % self.stride))
        positions = [self._position(block) for block in blocks]
        indices = sorted(set(positions))
        # without no_grad: parameters that take no gradient record none by themselves
        features = network.forward_intermediates(padded, indices=indices, stop_early=True, intermediates_only=True)
        found = dict(zip(indices, features, strict=True))
        strides = [self.stride_of(block) for block in blocks]
        # Padding to the deepest stride gives an early block more cells than the image has.
        return [
            found[position][:, :, : -(-height // stride), : -(-width // stride)]
            for position, stride in zip(positions, strides, strict=True)
        ]

    @staticmethod
    def measure(network: Any, blocks: Sequence[Block]) -> list[Shape]:
        return [Shape(stage["num_chs"], stage["reduction"]) for stage in list(network.feature_info)[: len(blocks)]]


def _owned_parameters(network: nn.Module, blocks: Sequence[Block]) -> list[Block]:
    """Give each block the parameters registered after the block before it and up to its own end.

    timm registers modules in the order they run, which is all that freezing the early stages needs.
    """
    modules = list(network.named_modules())
    ends = [
        max(place for place, (name, _) in enumerate(modules) if f"{name}.".startswith(f"{block.parts[0]}."))
        for block in blocks[:-1]
    ]
    owned: list[list[str]] = [[] for _ in blocks]
    for place, (module_name, module) in enumerate(modules):
        prefix = f"{module_name}." if module_name else ""
        owned[bisect_left(ends, place)] += [prefix + name for name, _ in module.named_parameters(recurse=False)]
    return [replace(block, parts=tuple(names)) for block, names in zip(blocks, owned, strict=True)]
