"""A pretrained network cut into named blocks, so that features can be read, cached and frozen at any of them.

Three kinds share one face, `Backbone`: chains of convolutional blocks (`ChainBackbone`), plain vision transformers
(`vit_backbone.VitBackbone`), and other networks of timm whose stages can be read but not entered
(`staged_backbone.StagedBackbone`).
`tag2mask.networks.backbones.create_backbone` builds them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.transforms.v2 import functional as transforms

from tag2mask.base.versions import Code
from tag2mask.errors import SettingsError, unknown_choice
from tag2mask.networks.folded_norm import fold_batch_norms
from tag2mask.networks.weights import WeightsInfo

CODE = Code("backbones")
_PROBE_SIZE = 64  # side in pixels of the image that tells blocks' channels and strides; a multiple of every stride


@dataclass(frozen=True)
class Block:
    """One named stretch of a network.

    Attributes:
        name: what settings call it.
        parts: dotted names, inside the network, of the modules it runs in order and of parameters it owns directly.
    """

    name: str
    parts: tuple[str, ...]


class Shape(NamedTuple):
    """Shape of the features after a block.

    Attributes:
        channels: of the features.
        stride: pixels of the image per cell.
    """

    channels: int
    stride: int


@dataclass(frozen=True)
class BackboneIdentity:
    """Origin of a backbone: its name, stride, normalisation and weights.

    Attributes:
        name: timm's name.
        output_stride: stride the whole network was built at.
        mean: per channel, of the normalisation its weights expect of images in [0, 1].
        std: likewise.
        weights: where its weights come from.
    """

    name: str
    output_stride: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: WeightsInfo


def unknown_block(name: str, block: str, choices: Iterable[str]) -> SettingsError:
    """The error that tells a block which the backbone of this name does not have."""
    return SettingsError(unknown_choice(f"block of backbone '{name}'", block, choices))


def not_cacheable(name: str) -> SettingsError:
    """The error that tells that features of the backbone of this name cannot be kept at a block."""
    return SettingsError(
        f"features of '{name}' cannot be cached at a block; the families EfficientNet, ResNet, ResNet38 and VGG can"
    )


class Backbone(nn.Module):
    """A network that turns images into the features after one of its blocks.

    Batch norm always runs on its running statistics, whatever `train` says: batches are small and of uneven content,
    and results must not depend on how they are split over devices. Its scale and shift are trained only when
    ``train_norm_affine`` asks for it. In a chain of blocks it is worked into the convolution in front of it
    (`tag2mask.networks.folded_norm`); a state dict shows nothing of that. Frozen blocks (`freeze`) stay in evaluation
    mode and run without gradients.

    Attributes:
        name: timm's name.
        output_stride: stride the whole network was built at, as `create_backbone` was told.
        block: name of the block whose features `forward` returns, the last that is kept.
        blocks: names of the blocks that are kept, in order; all are valid for `freeze` and, where `cacheable`,
            for `encode`.
        channels: channels of the features.
        stride: pixels of the image per cell of the features; less than `output_stride` at an early block.
        mean: normalisation of images in [0, 1] (`normalise` applies it).
        std: likewise.
        weights: where the weights come from.
        cacheable: whether `encode` and `forward_from` work.
        frozen_until: last frozen block, or None.
    """

    cacheable = False

    def __init__(
        self,
        network: nn.Module,
        blocks: Sequence[Block],
        identity: BackboneIdentity,
        *,
        aliases: Mapping[str, str] | None = None,
        train_norm_affine: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.name = identity.name
        self.output_stride = identity.output_stride
        self.mean = identity.mean
        self.std = identity.std
        self.weights = identity.weights
        self.train_norm_affine = train_norm_affine
        self._blocks = tuple(blocks)
        self.blocks = tuple(block.name for block in blocks)
        self._aliases = {alias: target for alias, target in (aliases or {}).items() if target in self.blocks}
        self.block = self.blocks[-1]
        self._frozen = 0
        self._shapes = self.measure(network, self._blocks)
        self._fold()
        self.channels = self.channels_of(self.block)
        self.stride = self.stride_of(self.block)
        self.freeze(None)

    @property
    def frozen_until(self) -> str | None:
        """Name of the last frozen block, or None."""
        return self.blocks[self._frozen - 1] if self._frozen else None

    def forward(self, images: Tensor) -> Tensor:
        """Features of normalised images.

        Args:
            images: (N, 3, H, W), see `normalise`.

        Returns:
            (N, channels, ceil(H / stride), ceil(W / stride)).
        """
        raise NotImplementedError

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise images (..., 3, H, W) in [0, 1] the way the weights expect it."""
        return transforms.normalize(images, list(self.mean), list(self.std))

    def encode(self, images: Tensor, until: str) -> Tensor:
        """Features after a block, to be kept and handed to `forward_from` later.

        Args:
            images: (N, 3, H, W), normalised.
            until: one of `blocks`.

        Returns:
            (N, channels_of(until), ceil(H / stride_of(until)), ceil(W / stride_of(until))).

        Raises:
            SettingsError: there is no such block, or this kind of network has no features to continue from.
        """
        raise self._not_cacheable()

    def forward_from(self, features: Tensor, after: str) -> Tensor:
        """Continue from the features that `encode` returned; equal to `forward` of the images bit for bit.

        Args:
            features: (N, channels_of(after), h, w).
            after: the block they were read at.

        Returns:
            what `forward` returns.

        Raises:
            SettingsError: there is no such block, or this kind of network has no features to continue from.
        """
        raise self._not_cacheable()

    def features_at(self, inputs: Tensor, blocks: Sequence[str], *, after: str | None = None) -> list[Tensor]:
        """Features after several blocks in one pass: AffinityNet's three depths, SSDD's low and high level.

        Args:
            inputs: normalised images (N, 3, H, W), or the features of block `after` as `encode` gives them.
            blocks: any of `blocks`, in any order.
            after: block whose features the inputs are; none of `blocks` may come before it.

        Returns:
            (N, channels_of(block), ceil(H / stride_of(block)), ceil(W / stride_of(block))) for each block, in the order
            asked for.

        Raises:
            SettingsError: there is no such block, it comes before `after`, or this kind of network has no features to
                continue from.
        """
        start = 0 if after is None else self._position(after) + 1
        if after is not None and not self.cacheable:
            raise self._not_cacheable()
        wanted = [self._position(block) + 1 for block in blocks]
        if wanted and min(wanted) < start:
            raise SettingsError(f"block '{blocks[wanted.index(min(wanted))]}' of '{self.name}' comes before '{after}'")
        found, state = {start: inputs}, inputs
        for stop in sorted(set(wanted) - {start}):
            state = self._advance(state, start, stop)
            found[stop], start = state, stop
        return [self._readable(found[stop], inputs) for stop in wanted]

    def freeze(self, until: str | None) -> None:
        """Take all blocks up to and including ``until`` out of training; None lets all of them train.

        Raises:
            SettingsError: there is no such block.
        """
        self._frozen = 0 if until is None else self._position(until) + 1
        self.requires_grad_(True)
        if not self.train_norm_affine:
            for module in self._batch_norms():
                module.requires_grad_(False)
        for part in self._frozen_parts():
            part.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set training mode for the trainable blocks; batch norm and frozen blocks stay in evaluation mode."""
        super().train(mode)
        for module in self._batch_norms():
            module.eval()
        for part in self._frozen_parts():
            if isinstance(part, nn.Module):
                part.eval()
        return self

    def channels_of(self, block: str) -> int:
        """Channels of the features after a block."""
        return self._shapes[self._position(block)].channels

    def stride_of(self, block: str) -> int:
        """Pixels of the image per cell of the features after a block."""
        return self._shapes[self._position(block)].stride

    @staticmethod
    def measure(network: nn.Module, blocks: Sequence[Block]) -> list[Shape]:
        """Channels and stride of each block; values play no part, so that a network on the device ``meta`` will do.

        Args:
            network: as a backbone is built around it.
            blocks: its blocks, the first of them at least.
        """
        raise NotImplementedError

    def _fold(self) -> None:
        """Works batch norms into convolutions, for kinds of networks where that is known to be of use."""

    def _readable(self, state: Tensor, images: Tensor) -> Tensor:
        """Output of a block, as a grid of features."""
        return state

    def _position(self, block: str) -> int:
        name = self._aliases.get(block, block)
        if name not in self.blocks:
            raise unknown_block(self.name, block, self.blocks)
        return self.blocks.index(name)

    def _batch_norms(self) -> Iterator[nn.Module]:
        return (module for module in self.network.modules() if isinstance(module, _BatchNorm))

    def _frozen_parts(self) -> Iterator[nn.Module | nn.Parameter]:
        for block in self._blocks[: self._frozen]:
            for part in block.parts:
                yield attrgetter(part)(self.network)

    def _advance(self, state: Tensor, start: int, stop: int) -> Tensor:
        """Run the blocks from ``start`` to before ``stop``, the frozen ones among them without gradients."""
        trainable = min(max(start, self._frozen), stop)
        with torch.no_grad():
            for index in range(start, trainable):
                state = self._run_block(index, state)
        for index in range(trainable, stop):
            state = self._run_block(index, state)
        return state

    def _run_block(self, index: int, state: Tensor) -> Tensor:
        for part in self._blocks[index].parts:
            state = self.network.get_submodule(part)(state)
        return state

    def _not_cacheable(self) -> SettingsError:
        return not_cacheable(self.name)


class ChainBackbone(Backbone):
    """A convolutional network that is a chain of blocks: its features can be cached at any of them."""

    cacheable = True

    def forward(self, images: Tensor) -> Tensor:
        return self._advance(images, 0, len(self.blocks))

    def encode(self, images: Tensor, until: str) -> Tensor:
        return self._advance(images, 0, self._position(until) + 1)

    def forward_from(self, features: Tensor, after: str) -> Tensor:
        return self._advance(features, self._position(after) + 1, len(self.blocks))

    def _fold(self) -> None:
        probe = torch.linspace(-1, 1, 3 * _PROBE_SIZE**2).reshape(1, 3, _PROBE_SIZE, _PROBE_SIZE)
        self.eval()
        fold_batch_norms(self.network, lambda: self(probe))
        self.train()

    @staticmethod
    def measure(network: nn.Module, blocks: Sequence[Block]) -> list[Shape]:
        # batch norms would otherwise take their statistics from the probe
        network.eval()
        shapes = []
        with torch.no_grad():
            state = torch.zeros(1, 3, _PROBE_SIZE, _PROBE_SIZE, device=next(network.parameters()).device)
            for block in blocks:
                for part in block.parts:
                    state = network.get_submodule(part)(state)
                shapes.append(Shape(state.shape[1], _PROBE_SIZE // state.shape[2]))
        network.train()
        return shapes
