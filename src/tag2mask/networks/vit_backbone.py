"""Plain vision transformers as backbones: patch tokens as a grid, and keys of the last attention layer."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import ResPostBlock
from torch import Tensor, nn

from tag2mask.base.versions import Code
from tag2mask.errors import SettingsError, unknown_choice
from tag2mask.networks.feature_blocks import Backbone, Block, Shape

CODE = Code("vision transformers")


KeyCentre = Literal["bias", "mean", "none"]
"""Vector that `VitBackbone.keys` subtracts from keys: the layer's key bias, the image's mean key, or none."""


class VitBackbone(Backbone):
    """A plain vision transformer of timm; its features are the patch tokens, laid out as a grid.

    Images whose sides are no multiples of the patch are padded at the right and the bottom with zeros, the mean colour
    of normalised images. The grid of position embeddings is resized to the image's grid, bicubic and without
    antialiasing, as DINOv2's own code does (timm's antialiased resizing gives other features).
    """

    def forward(self, images: Tensor) -> Tensor:
        return self._grid(self.tokens(images), images)

    def tokens(self, images: Tensor) -> Tensor:
        """Tokens at `block`: class and register tokens first, then the patches row by row.

        Args:
            images: (N, 3, H, W), normalised.

        Returns:
            (N, prefix tokens + ceil(H / stride) * ceil(W / stride), channels).
        """
        return self._advance(images, 0, len(self.blocks))

    def keys(self, images: Tensor, *, centre: KeyCentre = "bias") -> Tensor:
        """Keys of the attention layer in the last transformer block that is kept, all heads side by side.

        The features of superpixel discovery (Kim, dissertation 2022, section 3.3.1). Where a layer normalises its keys
        head by head, these are the keys before that. A layer's key bias adds the same to all of a query's scores, which
        the softmax takes out again, so training leaves it free: DINOv2's is as long as the keys and makes all of them
        alike.

        Args:
            images: (N, 3, H, W), normalised.
            centre: "bias" leaves the layer's key bias out, if it has one; "mean" subtracts each image's mean over its
                patches, those that lie in the padding among them; "none" takes keys as they are.

        Returns:
            (N, d, ceil(H / stride), ceil(W / stride)), a vector per patch; class and register tokens have none here. d
            is the width of the attention layer, as a rule the backbone's channels.

        Raises:
            SettingsError: there is no such centre, `block` is before the first transformer block, or the block has
                several attention layers side by side.
        """
        if centre not in get_args(KeyCentre):
            raise SettingsError(unknown_choice("centre of keys", centre, get_args(KeyCentre)))
        index = max((i for i, name in enumerate(self.blocks) if name.startswith("blocks.")), default=None)
        if index is None:
            raise SettingsError(f"backbone '{self.name}' up to block '{self.block}' has no attention layer")
        block: Any = self.network.get_submodule(self.blocks[index])
        if hasattr(block, "attn"):
            # A block that normalises what its attention returns gives the attention its tokens as they are.
            norm = nn.Identity() if isinstance(block, ResPostBlock) else block.norm1
            projection = block.attn.qkv
            width = projection.out_features // 3
        elif hasattr(block, "in_proj"):  # one projection for attention and feed-forward layer, the keys last but one
            norm, projection, width = block.in_norm, block.in_proj, block.in_split[-2]
        else:
            raise SettingsError(
                f"backbone '{self.name}' has several attention layers in a block, so no one layer's keys"
            )
        part = slice(-2 * width, -width)  # queries, keys, values
        # Under "mean" a bias would cancel, and in half precision what is subtracted is lost to rounding.
        bias = projection.bias[part] if centre == "none" and projection.bias is not None else None
        keys = F.linear(norm(self._advance(images, 0, index)), projection.weight[part], bias)
        grid = self._grid(keys, images)
        return grid - grid.mean((2, 3), keepdim=True) if centre == "mean" else grid

    def _grid(self, tokens: Tensor, images: Tensor) -> Tensor:
        """The patches' tokens of these images, (N, tokens, d) -> (N, d, rows, columns)."""
        rows, columns = (-(-size // self.stride) for size in images.shape[2:])
        patches = tokens[:, self._network.num_prefix_tokens :]
        return patches.transpose(1, 2).unflatten(2, (rows, columns))

    def _readable(self, state: Tensor, images: Tensor) -> Tensor:
        return self._grid(state, images)

    @property
    def _network(self) -> Any:
        return self.network  # timm's attributes are beyond nn.Module's annotations

    def _run_block(self, index: int, state: Tensor) -> Tensor:
        return self._embed(state) if index == 0 else super()._run_block(index, state)

    def _embed(self, images: Tensor) -> Tensor:
        """Patch embedding, class and register tokens, and positions."""
        network, patch = self._network, self.stride
        height, width = images.shape[2:]
        grid = network.patch_embed.proj(F.pad(images, (0, -width % patch, 0, -height % patch)))
        tokens = network.patch_embed.norm(grid.flatten(2).transpose(1, 2))
        prefix = [
            token.expand(len(tokens), -1, -1) for token in (network.cls_token, network.reg_token) if token is not None
        ]
        if network.pos_embed is None:
            return network.norm_pre(torch.cat([*prefix, tokens], dim=1))
        positions = self._positions(grid.shape[2], grid.shape[3])
        if network.no_embed_class:  # positions are of patches alone
            tokens = torch.cat([*prefix, tokens + positions], dim=1)
        else:
            tokens = torch.cat([*prefix, tokens], dim=1) + positions
        return network.norm_pre(tokens)

    def _positions(self, rows: int, columns: int) -> Tensor:
        network = self._network
        prefix = 0 if network.no_embed_class else network.num_prefix_tokens
        if network.patch_embed.grid_size == (rows, columns):
            return network.pos_embed
        grid = network.pos_embed[:, prefix:].transpose(1, 2).unflatten(2, network.patch_embed.grid_size)
        grid = F.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False, antialias=False)
        return torch.cat([network.pos_embed[:, :prefix], grid.flatten(2).transpose(1, 2)], dim=1)

    @staticmethod
    def measure(network: Any, blocks: Sequence[Block]) -> list[Shape]:
        return [Shape(network.embed_dim, network.patch_embed.patch_size[0])] * len(blocks)
