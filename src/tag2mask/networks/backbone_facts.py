"""Facts of a backbone before it is built: its blocks, their channels and strides, and its normalisation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode

from tag2mask.networks.backbones import backbone_class, build_network, check_backbone, count_kept, normalisation
from tag2mask.networks.feature_blocks import Shape, not_cacheable, unknown_block


@dataclass(frozen=True)
class BackboneFacts:
    """A backbone without its network: all that settings have to be checked against, in no time and next to no memory.

    Args:
        name: timm's name.
        family: as `tag2mask.networks.backbones.BackboneInfo` has it.
        output_stride: stride the whole network is built at.
        mean: per channel, of the normalisation its weights expect of images in [0, 1].
        std: likewise.
        blocks: names of the blocks up to the one that is read, in order.
        aliases: other names of these blocks.
        shapes: of the features after each block.
        cacheable: whether its features can be kept at a block.
    """

    name: str
    family: str
    output_stride: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    blocks: tuple[str, ...]
    aliases: Mapping[str, str]
    shapes: tuple[Shape, ...]
    cacheable: bool

    @property
    def block(self) -> str:
        """The block whose features are read, the last."""
        return self.blocks[-1]

    @property
    def channels(self) -> int:
        """Channels of the features."""
        return self.shapes[-1].channels

    @property
    def stride(self) -> int:
        """Pixels of the image per cell of the features; less than `output_stride` at an early block."""
        return self.shapes[-1].stride

    def channels_of(self, block: str) -> int:
        """Channels of the features after a block.

        Raises:
            SettingsError: there is no such block.
        """
        return self.shapes[self.position(block)].channels

    def stride_of(self, block: str) -> int:
        """Pixels of the image per cell of the features after a block.

        Raises:
            SettingsError: there is no such block.
        """
        return self.shapes[self.position(block)].stride

    def position(self, block: str) -> int:
        """Place of a block in `blocks`.

        Raises:
            SettingsError: there is no such block.
        """
        name = self.aliases.get(block, block)
        if name not in self.blocks:
            raise unknown_block(self.name, block, self.blocks)
        return self.blocks.index(name)

    def check_cacheable(self, block: str) -> None:
        """Check a block as `Backbone.encode` does, without the network.

        Raises:
            SettingsError: features of this backbone cannot be kept at a block, or there is no such block.
        """
        if not self.cacheable:
            raise not_cacheable(self.name)
        self.position(block)


def backbone_facts(name: str, output_stride: int = 16, block: str | None = None) -> BackboneFacts:
    """Facts of the backbone that `tag2mask.networks.backbones.create_backbone` builds; no weights are looked for.

    Args:
        name: timm's name, possibly with the tag of its weights.
        output_stride: as `create_backbone` takes it.
        block: likewise; None is the last.

    Raises:
        SettingsError: there is no such backbone or block, or it cannot have this stride; the message names those there
            are.
    """
    family = check_backbone(name, output_stride)
    whole = _whole(name.partition(".")[0], family, output_stride)
    kept = count_kept(name, whole.blocks, whole.aliases, block)
    mean, std = normalisation(name)
    return BackboneFacts(
        name=name,
        family=family,
        output_stride=output_stride,
        mean=mean,
        std=std,
        blocks=whole.blocks[:kept],
        aliases={alias: target for alias, target in whole.aliases.items() if target in whole.blocks[:kept]},
        shapes=whole.shapes[:kept],
        cacheable=backbone_class(family).cacheable,
    )


class _Whole(NamedTuple):
    """Facts of an architecture with all its blocks."""

    blocks: tuple[str, ...]
    aliases: Mapping[str, str]
    shapes: tuple[Shape, ...]


@cache
def _whole(architecture: str, family: str, output_stride: int) -> _Whole:
    # On this device tensors have shapes and no values, which spares memory and the drawing of random weights. Whatever
    # is drawn all the same must not depend on whether somebody asked before.
    with torch.random.fork_rng(devices=[]), torch.device("meta"), _RangesWithValues():
        network, blocks, aliases = build_network(architecture, family, output_stride)
        shapes = backbone_class(family).measure(network, blocks)
    return _Whole(tuple(block.name for block in blocks), aliases, tuple(shapes))


class _RangesWithValues(TorchFunctionMode):
    """Keeps ranges on the CPU: older versions of timm read rates of drop paths off one."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        return func(*args, **({"device": "cpu"} | given if func is torch.linspace else given))
