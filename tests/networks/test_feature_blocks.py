"""Blocks: caching and continuing is exact, frozen means frozen, batch norm stays put, tokens become grids."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from tag2mask.data.images import read_image
from tag2mask.data.voc import read_voc
from tag2mask.errors import SettingsError
from tag2mask.networks.backbones import Backbone, create_backbone
from tag2mask.networks.feature_blocks import VitBackbone

CHAINS = ["tf_efficientnet_lite0", "resnet18", "vgg11_bn"]
OTHERS = ["convnext_atto", "vit_tiny_patch16_224"]


Network = TypeVar("Network", bound=nn.Module)


def awaken(module: Network) -> Network:
    """Draw what starts at zero or one, so that no residual branch is silent and no batch norm the identity."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim <= 1:
                parameter.copy_(torch.empty_like(parameter).uniform_(0.5, 1.5))
        for key, value in module.named_buffers():
            if "running" in key:
                value.uniform_(0.5, 1.5)
    return module


@pytest.fixture
def build() -> Callable[..., Backbone]:
    def make(name: str, **options: object) -> Backbone:
        torch.manual_seed(0)
        return awaken(create_backbone(name, weights="none", **options))  # type: ignore[arg-type]

    return make


def images(height: int = 64, width: int = 80) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", CHAINS)
def test_continuing_from_a_block_is_exact(build: Callable[..., Backbone], name: str, training: bool) -> None:
    backbone = build(name).train(training)
    batch = images(75, 53)
    with torch.no_grad():
        expected = backbone(batch)
        assert torch.isfinite(expected).all()
        for block in backbone.blocks:
            features = backbone.encode(batch, block)
            stride = backbone.stride_of(block)
            assert features.shape == (2, backbone.channels_of(block), -(-75 // stride), -(-53 // stride))
            kept = features.clone()
            assert torch.equal(backbone.forward_from(features, block), expected)
            assert torch.equal(features, kept)


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_say_what_can_be_cached(build: Callable[..., Backbone], name: str) -> None:
    backbone = build(name)
    assert not backbone.cacheable
    for attempt in (
        lambda: backbone.encode(images(), backbone.block),
        lambda: backbone.forward_from(images(), backbone.block),
    ):
        with pytest.raises(SettingsError, match=f"'{name}' cannot be cached .* ResNet38 and VGG can"):
            attempt()


def test_unknown_blocks(build: Callable[..., Backbone]) -> None:
    backbone = build("resnet18", block="layer2")
    calls: list[Callable[[], object]] = [
        lambda: backbone.encode(images(), "layer3"),
        lambda: backbone.forward_from(images(), "layer3"),
        lambda: backbone.freeze("layer3"),
        lambda: backbone.channels_of("layer3"),
        lambda: backbone.stride_of("layer3"),
    ]
    for call in calls:
        with pytest.raises(SettingsError, match=r"block of backbone 'resnet18' 'layer3'; choices: stem, .*layer2\.1$"):
            call()


@pytest.mark.parametrize(
    ("name", "until", "frozen", "trained"),
    [
        ("resnet18", "layer2", "layer2.1.conv2.weight", "layer3.0.conv1.weight"),
        ("tf_efficientnet_lite0", "blocks.3", "blocks.3.2.conv_pw.weight", "blocks.4.0.conv_pw.weight"),
        ("vgg11", "conv2", "features.3.weight", "features.6.weight"),
        ("convnext_atto", "stages.1", "stages.1.blocks.0.gamma", "stages.2.blocks.0.gamma"),
        ("vit_tiny_patch16_224", "blocks.4", "cls_token", "blocks.5.attn.qkv.weight"),
    ],
)
def test_frozen_blocks_take_no_gradient(
    build: Callable[..., Backbone], name: str, until: str, frozen: str, trained: str
) -> None:
    backbone = build(name)
    before = backbone(images())
    backbone.freeze(until)
    parameters = dict(backbone.network.named_parameters())
    expected = list(backbone.blocks).index(until) if until in backbone.blocks else None
    assert backbone.frozen_until == (backbone.blocks[expected] if expected is not None else "layer2.1")
    after = backbone(images())
    torch.testing.assert_close(after, before, atol=0, rtol=0)
    after.square().mean().backward()
    assert parameters[frozen].grad is None
    assert not parameters[frozen].requires_grad
    assert parameters[trained].grad is not None
    assert float(parameters[trained].grad.abs().max()) > 0
    assert all(parameter.grad is not None for parameter in parameters.values() if parameter.requires_grad)
    backbone.freeze(None)
    assert backbone.frozen_until is None
    assert parameters[frozen].requires_grad


def test_everything_before_the_frozen_block_is_frozen(build: Callable[..., Backbone]) -> None:
    for name, until in (("resnet18", "layer3.0"), ("convnext_atto", "stages.2"), ("vit_tiny_patch16_224", "norm")):
        backbone = build(name)
        cut = build(name, block=until)
        backbone.freeze(until)
        names = {key for key, value in backbone.named_parameters() if not value.requires_grad}
        assert set(dict(cut.named_parameters())) <= names
        backbone.freeze(backbone.block)
        assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_frozen_blocks_run_without_a_graph(build: Callable[..., Backbone]) -> None:
    backbone = build("resnet18")
    backbone.freeze("layer2")
    batch = images().requires_grad_()
    assert not backbone.encode(batch, "layer2").requires_grad
    assert backbone.encode(batch, "layer3.0").requires_grad
    features = backbone.encode(batch, "layer1").requires_grad_()
    backbone.forward_from(features, "layer1").sum().backward()
    assert features.grad is None
    backbone.freeze(None)
    assert backbone.encode(batch, "layer2").requires_grad


def test_batch_norm_never_moves(build: Callable[..., Backbone]) -> None:
    backbone = build("resnet18").train()
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert not any(module.training for module in norms)
    assert backbone.network.get_submodule("layer4.1").training
    before = {key: value.clone() for key, value in backbone.named_buffers()}
    backbone(images())
    assert all(torch.equal(before[key], value) for key, value in backbone.named_buffers())


def test_batch_norm_affine_is_a_setting(build: Callable[..., Backbone]) -> None:
    for asked in (False, True):
        backbone = build("resnet18", train_norm_affine=asked)
        backbone.freeze("layer2")
        parameters = dict(backbone.network.named_parameters())
        assert parameters["layer4.1.bn2.weight"].requires_grad == asked
        assert not parameters["layer1.0.bn1.weight"].requires_grad
        assert parameters["layer4.1.conv2.weight"].requires_grad


def test_frozen_blocks_stay_in_evaluation_mode(build: Callable[..., Backbone]) -> None:
    backbone = build("resnet18")
    backbone.freeze("layer1")
    backbone.train()
    assert not backbone.network.get_submodule("layer1.1.conv1").training
    assert backbone.network.get_submodule("layer2.0.conv1").training
    assert backbone.training
    backbone.eval()
    assert not backbone.network.get_submodule("layer2.0.conv1").training


def test_shapes_of_blocks(build: Callable[..., Backbone]) -> None:
    backbone = build("resnet18", output_stride=8)
    expected = {"stem": (64, 4), "layer1": (64, 4), "layer2": (128, 8), "layer3": (256, 8), "layer4": (512, 8)}
    assert {key: (backbone.channels_of(key), backbone.stride_of(key)) for key in expected} == expected


@pytest.mark.parametrize("name", ["convnext_atto", "regnetx_002", "xception41p"])
def test_staged_features_are_timms(build: Callable[..., Backbone], name: str) -> None:
    torch.manual_seed(0)
    reference = awaken(timm.create_model(name, output_stride=16, num_classes=0)).eval()
    expected = reference.forward_intermediates(images(), intermediates_only=True)
    for index, block in enumerate(build(name).blocks):
        backbone = build(name, block=block).eval()
        kept = backbone.network.state_dict()
        backbone.network.load_state_dict({key: value for key, value in reference.state_dict().items() if key in kept})
        torch.testing.assert_close(backbone(images()), expected[index], atol=0, rtol=0)
        assert backbone.channels == expected[index].shape[1]
        assert backbone.stride == 64 // expected[index].shape[2]


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


@pytest.mark.parametrize("name", [*CHAINS, *OTHERS])
def test_several_depths_are_read_in_one_pass(build: Callable[..., Backbone], name: str) -> None:
    """In any order, twice the same, each as a backbone cut at that block gives it."""
    whole = build(name).eval()
    middle, early = whole.blocks[len(whole.blocks) // 2], whole.blocks[1]
    batch = images(75, 53)
    with torch.no_grad():
        found = whole.features_at(batch, [middle, whole.block, early, middle])
        assert torch.equal(found[1], whole(batch))
        assert torch.equal(found[0], found[3])
        for features, block in zip(found, [middle, whole.block, early], strict=False):
            stride = whole.stride_of(block)
            assert features.shape == (2, whole.channels_of(block), -(-75 // stride), -(-53 // stride))
        cut = build(name, block=middle).eval()
        cut.load_state_dict({key: whole.state_dict()[key] for key in cut.state_dict()})
        assert torch.allclose(found[0], cut(batch), atol=1e-5)


def test_depths_are_read_from_cached_features(build: Callable[..., Backbone]) -> None:
    backbone = build("resnet18").eval()
    batch = images()
    with torch.no_grad():
        cached = backbone.encode(batch, "layer2")
        found = backbone.features_at(cached, ["layer4", "layer2", "layer3"], after="layer2")
        for features, expected in zip(found, backbone.features_at(batch, ["layer4", "layer2", "layer3"]), strict=True):
            assert torch.equal(features, expected)
    with pytest.raises(SettingsError, match=r"block 'layer1' of 'resnet18' comes before 'layer2'"):
        backbone.features_at(cached, ["layer4", "layer1"], after="layer2")
    with pytest.raises(SettingsError, match="layer9"):
        backbone.features_at(batch, ["layer9"])


@pytest.mark.parametrize("name", OTHERS)
def test_depths_after_a_block_need_a_chain(build: Callable[..., Backbone], name: str) -> None:
    backbone = build(name)
    with pytest.raises(SettingsError, match="cannot be cached at a block"):
        backbone.features_at(images(), [backbone.block], after=backbone.blocks[0])


def test_frozen_depths_take_no_gradient(build: Callable[..., Backbone]) -> None:
    backbone = build("resnet18")
    backbone.freeze("layer2")
    early, late = backbone.features_at(images(), ["layer1", "layer3"])
    assert not early.requires_grad
    assert late.requires_grad
