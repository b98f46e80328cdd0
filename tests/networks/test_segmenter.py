from typing import Any

import pytest
import torch

from tag2mask.errors import SettingsError
from tag2mask.networks.backbones import Backbone, create_backbone
from tag2mask.networks.heads import ASPP, Dilated, LargeFOV
from tag2mask.networks.segmenter import HeadSettings, Segmenter


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(0)
    return create_backbone("tf_efficientnet_lite0", output_stride=16, weights="none", block="blocks.4").eval()


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (HeadSettings("largefov", 8, (2,), 0.5), LargeFOV),
        (HeadSettings("aspp", 8, (1, 2), 0.5), ASPP),
        (HeadSettings("aspp", 0, (1, 2, 3)), ASPP),
        (HeadSettings("dilated", 8, (2,), 0.5), Dilated),
    ],
)
def test_a_segmenter_is_a_head_on_a_backbone(backbone: Backbone, settings: HeadSettings, kind: type) -> None:
    network = Segmenter(backbone, 4, settings).eval()
    images = torch.randn(2, 3, 50, 64)
    assert isinstance(network.head, kind)
    scores = network(images)
    assert scores.shape == (2, 4, 4, 4)
    assert torch.equal(scores, network.head(backbone(images)))
    assert {id(p) for p in network.head_parameters()} == {id(p) for p in network.head.parameters()}


def test_settings_reach_the_head(backbone: Backbone) -> None:
    large = Segmenter(backbone, 4, HeadSettings("largefov", 8, (5,), 0.25)).head
    assert (large[0].dilation, large[0].out_channels, large[2].p) == ((5, 5), 8, 0.25)  # type: ignore[index]
    aspp = Segmenter(backbone, 4, HeadSettings("aspp", 0, (1, 7))).head
    assert [branch.dilation for branch in aspp.branches] == [(1, 1), (7, 7)]  # type: ignore[union-attr]


def test_features_of_a_block_give_the_same_scores(backbone: Backbone) -> None:
    network = Segmenter(backbone, 3, HeadSettings(width=8, dilations=(2,))).eval()
    images = torch.randn(1, 3, 48, 64)
    for block in ("stem", "blocks.2", "blocks.4"):
        assert torch.equal(network(backbone.encode(images, block), after=block), network(images)), block


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "unet"}, "unet.*largefov, aspp"),
        ({"dilations": (6, 12)}, "one dilation"),
        ({"width": 0}, "width above 0"),
        ({"kind": "aspp", "dilations": ()}, "dilations"),
        ({"kind": "aspp", "dilations": (0, 2)}, "dilations"),
        ({"kind": "aspp", "width": -1}, "width"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_impossible_heads_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        HeadSettings(**wrong)


@pytest.mark.parametrize("kind", ["largefov", "dilated"])
def test_levels_are_those_of_one_pass(backbone: Backbone, kind: Any) -> None:
    network = Segmenter(backbone, 4, HeadSettings(kind, 8, (2,))).eval()
    images = torch.randn(2, 3, 50, 64)
    with torch.no_grad():
        levels = network.levels(images, early="blocks.1")
        assert torch.equal(levels.features, backbone(images))
        assert torch.equal(levels.scores, network(images))
        assert torch.equal(levels.hidden, network.head.hidden(levels.features))  # type: ignore[operator]
        assert torch.equal(levels.early, backbone.encode(images, "blocks.1"))
        assert network.levels(images).early is None
        cached = backbone.encode(images, "blocks.2")
        assert torch.equal(network.levels(cached, after="blocks.2").scores, levels.scores)


def test_aspp_has_no_hidden_layer(backbone: Backbone) -> None:
    with pytest.raises(SettingsError, match="aspp has several branches"):
        Segmenter(backbone, 4, HeadSettings("aspp", 8, (1, 2))).levels(torch.zeros(1, 3, 32, 32))


def test_only_the_dilated_head_has_a_norm_to_freeze() -> None:
    with pytest.raises(SettingsError, match="frozen_norm"):
        HeadSettings("largefov", 8, (2,), frozen_norm=True)
    with pytest.raises(SettingsError, match="dilated takes one dilation"):
        HeadSettings("dilated", 8, (2, 3))
