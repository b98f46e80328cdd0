"""Facts of backbones: those of the networks that are built, got without building one."""

from functools import cache
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tag2mask.errors import SettingsError
from tag2mask.networks import backbone_facts as module
from tag2mask.networks.backbone_facts import BackboneFacts, backbone_facts
from tag2mask.networks.backbones import Backbone, create_backbone, list_backbones

LITE0 = "tf_efficientnet_lite0"

# of every family
NAMES = [
    *(LITE0, "resnet18.tv_in1k", "resnet18d", "resnet38", "vgg11_bn"),
    *("vit_tiny_patch16_224", "vit_small_patch14_dinov2", "convnext_atto", "regnetx_002"),
]
CHOICES = [
    (name, stride)
    for name in NAMES
    for info in list_backbones(name.partition(".")[0])
    for stride in info.output_strides
]


@cache
def built(name: str, output_stride: int, block: str | None = None) -> dict[str, Any]:
    return told_by(create_backbone(name, output_stride=output_stride, block=block, weights="none"))


def told_by(backbone: Backbone | BackboneFacts) -> dict[str, Any]:
    """All that both a backbone and its facts know."""
    names = ("name", "output_stride", "block", "blocks", "channels", "stride", "mean", "std", "cacheable")
    shapes = [(backbone.channels_of(block), backbone.stride_of(block)) for block in backbone.blocks]
    return {name: getattr(backbone, name) for name in names} | {"shapes": shapes}


@pytest.mark.parametrize(("name", "output_stride"), CHOICES)
def test_facts_are_those_of_the_network(name: str, output_stride: int) -> None:
    facts = backbone_facts(name, output_stride)
    assert told_by(facts) == built(name, output_stride)
    assert facts.family == list_backbones(name.partition(".")[0])[0].family


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_facts_of_a_network_that_is_cut(data: st.DataObject) -> None:
    """At any block of any family's network, by any of the block's names."""
    name, stride = data.draw(
        st.sampled_from([(LITE0, 16), ("resnet18", 8), ("vgg11", 32), ("vit_tiny_patch16_224", 16), ("regnetx_002", 8)])
    )
    whole = backbone_facts(name, stride)
    block = data.draw(st.sampled_from([*whole.blocks, *whole.aliases]))
    facts = backbone_facts(name, stride, block)
    assert told_by(facts) == built(name, stride, block)
    assert facts.position(block) == len(facts.blocks) - 1
    assert facts.blocks == whole.blocks[: len(facts.blocks)]


def test_cut_wide_resnet() -> None:
    assert told_by(backbone_facts("resnet38", 8, "b4_2")) == built("resnet38", 8, "b4_2")


def test_other_names_of_blocks() -> None:
    facts = backbone_facts("resnet18", 16, "layer3")
    assert facts.aliases == {"layer1": "layer1.1", "layer2": "layer2.1", "layer3": "layer3.1"}
    assert (facts.position("layer2"), facts.channels_of("layer2"), facts.stride_of("layer2")) == (4, 128, 8)


@pytest.mark.parametrize(
    ("name", "output_stride", "block"),
    [("resnet5", 16, None), ("resnet50.x", 16, None), ("resnet18", 4, None), ("vit_small_patch14_dinov2", 16, None)]
    + [(name, 16, "layer5") for name in (LITE0, "resnet18", "convnext_atto", "vit_tiny_patch16_224")],
)
def test_what_cannot_be_built_is_told_in_the_same_words(name: str, output_stride: int, block: str | None) -> None:
    with pytest.raises(SettingsError) as expected:
        create_backbone(name, output_stride=output_stride, block=block, weights="none")
    with pytest.raises(SettingsError) as told:
        backbone_facts(name, output_stride, block)
    assert str(told.value) == str(expected.value)


@pytest.mark.parametrize("name", [LITE0, "resnet18"])
@pytest.mark.parametrize("block", ["layer4", "blocks.9"])
def test_unknown_blocks_are_told_in_the_same_words(name: str, block: str) -> None:
    cut = "layer2" if name == "resnet18" else "blocks.1"
    facts, backbone = backbone_facts(name, 16, cut), create_backbone(name, block=cut, weights="none")
    with pytest.raises(SettingsError) as expected:
        backbone.channels_of(block)
    image = torch.zeros(1, 3, 32, 32)
    with pytest.raises(SettingsError) as encoding:
        backbone.encode(image, block)
    for ask in (facts.channels_of, facts.stride_of, facts.position, facts.check_cacheable):
        with pytest.raises(SettingsError) as told:
            ask(block)
        assert str(told.value) == str(expected.value) == str(encoding.value)
    facts.check_cacheable(cut)


@pytest.mark.parametrize("name", ["convnext_atto", "vit_tiny_patch16_224"])
def test_features_that_cannot_be_kept_are_told_in_the_same_words(name: str) -> None:
    facts = backbone_facts(name, 16)
    with pytest.raises(SettingsError) as expected:
        create_backbone(name, weights="none").encode(torch.zeros(1, 3, 32, 32), facts.blocks[0])
    with pytest.raises(SettingsError) as told:
        facts.check_cacheable(facts.blocks[0])
    assert str(told.value) == str(expected.value)


@pytest.mark.parametrize("name", ["resnet38", "resnet101", "vgg16", "convnext_tiny", "vit_tiny_patch16_224"])
def test_a_network_is_only_sketched_and_but_once(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Without values, without weights and without a draw from anybody's random numbers."""
    sketched: list[nn.Module] = []
    build = module.build_network

    def noted(*arguments: Any) -> Any:
        found = build(*arguments)
        sketched.append(found[0])
        return found

    module._whole.cache_clear()
    monkeypatch.setattr(module, "build_network", noted)
    monkeypatch.setattr("tag2mask.networks.backbones.load_state", lambda *_: pytest.fail("weights were read"))
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, last = (backbone_facts(name, 16, block) for block in (backbone_facts(name, 16).blocks[0], None))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.blocks == last.blocks[:1]
    (network,) = sketched
    assert {tensor.device.type for tensor in network.state_dict().values()} == {"meta"}
    assert torch.zeros(1).device.type == "cpu"


def test_ranges_that_a_network_reads_have_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm 1.0.15 reads the rates of its drop paths off one; later versions make it on the CPU."""
    create = timm.create_model
    read: list[list[float]] = []

    def older(*arguments: Any, **options: Any) -> Any:
        read.append(torch.linspace(0, 1, 3).tolist())
        read.append(torch.linspace(0, 1, 3, device="cpu").tolist())
        return create(*arguments, **options)

    module._whole.cache_clear()
    monkeypatch.setattr(timm, "create_model", older)
    assert backbone_facts("vit_tiny_patch16_224", 16).channels == 192
    assert read == [[0, 0.5, 1]] * 2
