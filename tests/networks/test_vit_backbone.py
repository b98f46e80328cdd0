import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from tag2mask.data.images import read_image
from tag2mask.data.voc import read_voc
from tag2mask.errors import SettingsError
from tag2mask.networks.backbones import Backbone, create_backbone
from tag2mask.networks.vit_backbone import VitBackbone
from tests.networks.conftest import awaken, images


def test_transformer_equals_timm_at_its_own_size() -> None:
    """Class, register and patch tokens at the pretraining size, where positions need no resizing."""
    for name in (
        "vit_tiny_patch16_224",
        "vit_small_patch14_reg4_dinov2",
        "vit_xsmall_patch16_clip_224",
        "deit3_small_patch16_224",
    ):
        torch.manual_seed(0)
        reference = timm.create_model(name, img_size=112, num_classes=0).eval()
        backbone = create_backbone(name, output_stride=reference.patch_embed.patch_size[0], weights="none").eval()
        assert isinstance(backbone, VitBackbone)
        backbone.network = reference
        batch = images(112, 112)
        with torch.no_grad():
            expected = reference.forward_features(batch)
            torch.testing.assert_close(backbone.tokens(batch), expected, atol=1e-5, rtol=1e-5)
        cells = 112 // backbone.stride
        grid = expected[:, -(cells**2) :].reshape(2, cells, cells, -1).permute(0, 3, 1, 2)
        with torch.no_grad():
            torch.testing.assert_close(backbone(batch), grid, atol=1e-5, rtol=1e-5)


def test_transformer_without_positions(build: Callable[..., Backbone]) -> None:
    backbone = build("vit_tiny_patch16_224").eval()
    reference = timm.create_model("vit_tiny_patch16_224", pos_embed="none", num_classes=0).eval()
    backbone.network = reference
    batch = images(224, 224)
    with torch.no_grad():
        expected = reference.forward_features(batch)[:, 1:]
        torch.testing.assert_close(backbone(batch).flatten(2).transpose(1, 2), expected, atol=1e-5, rtol=1e-5)


def test_positions_are_resized_without_antialiasing(build: Callable[..., Backbone]) -> None:
    """The grid of positions as DINOv2 resizes it: bicubic by size, corners not aligned, no antialiasing."""
    backbone = build("vit_tiny_patch16_224", block="patch_embed").eval()
    table = backbone.network.get_parameter("pos_embed")
    with torch.no_grad():
        table.normal_()
        backbone.network.get_submodule("patch_embed").get_submodule("proj").requires_grad_(False)
        for parameter in backbone.network.get_submodule("patch_embed").parameters():
            parameter.zero_()
        positions = backbone(images(80, 112)[:1])
    grid = table[:, 1:].detach().reshape(1, 14, 14, -1).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, size=(5, 7), mode="bicubic", align_corners=False, antialias=False)
    torch.testing.assert_close(positions, expected, atol=1e-6, rtol=0)
    antialiased = resample_abs_pos_embed(table.detach(), [5, 7])[:, 1:].transpose(1, 2).reshape(expected.shape)
    assert float((positions - antialiased).abs().max()) > 0.1


def test_transformer_pads_with_the_mean_colour(build: Callable[..., Backbone]) -> None:
    backbone = build("vit_tiny_patch16_224").eval()
    batch = images(40, 50)
    with torch.no_grad():
        features = backbone(batch)
        torch.testing.assert_close(features, backbone(F.pad(batch, (0, 14, 0, 8))), atol=0, rtol=0)
    assert features.shape == (2, 192, 3, 4)
    assert (backbone.stride, backbone.channels) == (16, 192)


KEYED = [
    "vit_tiny_patch16_224",  # a class token
    "vit_small_patch14_dinov2",  # layer scale, sides that are no multiples of the patch
    "vit_small_patch14_reg4_dinov2",  # registers
    "vit_base_patch8_224.dino",
    "vit_medium_patch16_gap_240",  # no bias, no class token
    "vit_base_patch16_rpn_224",  # norm after the attention
    "vit_base_patch16_xp_224",  # one projection for attention and feed-forward layer
    "vit_dlittle_patch16_reg1_gap_256",  # differential attention
]


@pytest.fixture
def small_vit(monkeypatch: pytest.MonkeyPatch) -> Callable[..., VitBackbone]:
    """Random ViTs by timm's names with three blocks only."""
    create_model = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **options: create_model(name, depth=3, **options))

    def make(name: str, **options: object) -> VitBackbone:
        patch = int(re.search(r"patch(\d+)", name)[1])  # type: ignore[index]
        torch.manual_seed(0)
        backbone = create_backbone(name, output_stride=patch, weights="none", **options)  # type: ignore[arg-type]
        assert isinstance(backbone, VitBackbone)
        return awaken(backbone).eval()

    return make


@pytest.mark.parametrize("name", KEYED)
def test_keys_are_those_of_the_last_attention_layer(small_vit: Callable[..., VitBackbone], name: str) -> None:
    backbone = small_vit(name)
    last: Any = backbone.network.get_submodule("blocks.2")
    projection = last.attn.qkv if hasattr(last, "attn") else last.in_proj
    caught: list[Tensor] = []
    projection.register_forward_hook(lambda module, _, output: caught.append(output))
    batch = images(45, 67)
    rows, columns = -(-45 // backbone.stride), -(-67 // backbone.stride)
    with torch.no_grad():
        raw, unbiased, centred = (backbone.keys(batch, centre=centre) for centre in ("none", "bias", "mean"))
        assert not caught  # the layer itself was not run
        backbone(batch)
    width = raw.shape[1]
    expected = caught[0][:, -rows * columns :, -2 * width : -width]
    assert raw.shape == (2, width, rows, columns)
    torch.testing.assert_close(raw.flatten(2).mT, expected)
    bias = 0 if projection.bias is None else projection.bias[-2 * width : -width]
    torch.testing.assert_close(unbiased.flatten(2).mT, expected - bias, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(centred.flatten(2).mT, expected - expected.mean(1, keepdim=True), atol=1e-4, rtol=1e-4)


def test_keys_belong_to_the_last_block_that_is_kept(small_vit: Callable[..., VitBackbone]) -> None:
    whole = small_vit("vit_tiny_patch16_224")
    cut = small_vit("vit_tiny_patch16_224", block="blocks.1")
    cut.load_state_dict(whole.state_dict(), strict=False)
    caught: list[Tensor] = []
    whole.network.get_submodule("blocks.1.attn.qkv").register_forward_hook(lambda *three: caught.append(three[2]))
    with torch.no_grad():
        whole(images())
        keys = cut.keys(images(), centre="none")
    torch.testing.assert_close(keys.flatten(2).mT, caught[0][:, 1:].chunk(3, dim=-1)[1])


def test_keys_take_gradients_where_blocks_are_trained(small_vit: Callable[..., VitBackbone]) -> None:
    backbone = small_vit("vit_tiny_patch16_224")
    backbone.freeze("blocks.1")
    backbone.keys(images()).sum().backward()
    trained = {name for name, parameter in backbone.network.named_parameters() if parameter.grad is not None}
    assert trained == {"blocks.2.norm1.weight", "blocks.2.norm1.bias", "blocks.2.attn.qkv.weight"}


def test_keys_in_half_precision(small_vit: Callable[..., VitBackbone]) -> None:
    backbone = small_vit("vit_tiny_patch16_224")
    with torch.no_grad():
        exact = backbone.keys(images())
        with torch.autocast("cpu", torch.bfloat16):
            half = backbone.keys(images())
    assert half.dtype == torch.bfloat16
    assert F.cosine_similarity(exact, half.float(), dim=1).min() > 0.99


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vit_tiny_patch16_224", {"block": "patch_embed"}, "up to block 'patch_embed' has no attention layer"),
        ("vit_small_patch16_18x2_224", {}, "several attention layers in a block"),
    ],
)
def test_blocks_without_keys_are_refused(
    small_vit: Callable[..., VitBackbone], name: str, options: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        small_vit(name, **options).keys(images())


def test_an_unknown_centre_of_keys_is_refused(small_vit: Callable[..., VitBackbone]) -> None:
    with pytest.raises(SettingsError, match="unknown centre of keys 'median'; choices: bias, mean, none"):
        small_vit("vit_tiny_patch16_224").keys(images(), centre="median")  # type: ignore[arg-type]


def test_keys_of_dinov2_are_all_alike_until_their_bias_is_gone(shared_data: Path) -> None:
    backbone = create_backbone("vit_small_patch14_dinov2", output_stride=14, weights="package").eval()
    assert isinstance(backbone, VitBackbone)
    photograph = read_voc(shared_data / "voc12-small").train.samples[0].image
    image = torch.from_numpy(read_image(photograph)).permute(2, 0, 1)[None] / 255
    image = F.interpolate(image, (224, 224), mode="bilinear", antialias=True)
    similarities = {}
    with torch.no_grad():
        for centre in ("none", "bias", "mean"):
            keys = F.normalize(backbone.keys(backbone.normalise(image), centre=centre)[0].flatten(1), dim=0)
            similarities[centre] = keys.T @ keys
    assert similarities["none"].min() > 0.5
    assert similarities["bias"].min() < 0.2
    assert similarities["mean"].min() < 0
