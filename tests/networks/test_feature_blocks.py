"""Blocks: caching and continuing is exact, frozen means frozen, batch norm stays put."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tag2mask.errors import SettingsError
from tag2mask.networks.backbones import Backbone
from tests.networks.conftest import images

CHAINS = ["tf_efficientnet_lite0", "resnet18", "vgg11_bn"]
OTHERS = ["convnext_atto", "vit_tiny_patch16_224"]


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
