"""AffinityNet on backbones of every family."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tag2mask.errors import SettingsError
from tag2mask.evidence.affinity import pair_affinities
from tag2mask.networks.affinity_net import AffinityNet
from tag2mask.networks.backbones import create_backbone
from tag2mask.networks.model_file import ModelHeader, load_model, save_model

FAMILIES = [
    ("tf_efficientnet_lite0", 16, ("blocks.1", "blocks.2", "blocks.4")),
    ("resnet18", 16, ("layer1", "layer2", "layer4")),
    ("convnext_tiny", 32, ("stages.0", "stages.1", "stages.2")),
    ("vit_tiny_patch16_224", 16, ("blocks.0", "blocks.5", "blocks.11")),
]


def network(name: str = "resnet18", stride: int = 16, blocks: tuple[str, ...] = ("layer1", "layer2")) -> AffinityNet:
    torch.manual_seed(0)
    return AffinityNet(
        create_backbone(name, output_stride=stride, block=blocks[-1], weights="none"), blocks, (4, 6, 8)[: len(blocks)]
    )


@pytest.mark.parametrize(("name", "stride", "blocks"), FAMILIES, ids=[name for name, _, _ in FAMILIES])
def test_features_of_any_family_come_on_the_grid(name: str, stride: int, blocks: tuple[str, ...]) -> None:
    net = network(name, stride, blocks)
    features = net(torch.randn(2, 3, 67, 90))
    assert features.shape == (2, 18, 9, 12)
    pair_affinities(features, 3).log().clamp(min=-20).sum().backward()
    for parameter in net.head_parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_the_formula() -> None:
    """Resized features, then the convolutions, ELU after each: in the paper's order."""
    net = network().eval()
    images = torch.randn(1, 3, 64, 48)
    with torch.no_grad():
        depths = [
            F.elu(convolve(F.interpolate(features, size=(8, 6), mode="bilinear", align_corners=False)))
            for convolve, features in zip(net.depths, net.backbone.features_at(images, net.blocks), strict=True)
        ]
        expected = F.elu(F.conv2d(torch.cat(depths, 1), net.mix.weight))
        torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-4)


def test_new_layers_have_no_bias() -> None:
    assert [tuple(weight.shape) for weight in network().head_parameters()] == [
        (4, 64, 1, 1),
        (6, 128, 1, 1),
        (10, 10, 1, 1),
    ]


def test_autocast_gives_finite_affinities() -> None:
    net = network("resnet18", 16, ("layer1", "layer2", "layer4"))
    with torch.autocast("cpu", torch.bfloat16):
        affinities = pair_affinities(net(torch.randn(1, 3, 64, 64)), 3)
    assert affinities.dtype == torch.float32
    affinities.sum().backward()
    assert torch.isfinite(net.mix.weight.grad).all()


@pytest.mark.parametrize("wrong", [{"widths": (4,)}, {"widths": (4, 0)}, {"grid_stride": 0}, {"blocks": ()}])
def test_impossible_networks(wrong: dict) -> None:
    backbone = create_backbone("resnet18", output_stride=16, weights="none")
    with pytest.raises(SettingsError, match="one width above 0 for each block"):
        AffinityNet(backbone, **{"blocks": ("layer1", "layer2"), "widths": (4, 6), **wrong})


def test_a_model_file_rebuilds_it(tmp_path: Path) -> None:
    net = network().eval()
    header = ModelHeader(
        kind="affinity",
        classes=("disc",),
        backbone={"name": "resnet18", "output_stride": 16, "block": "layer2"},
        head={"blocks": net.blocks, "widths": net.widths, "grid_stride": net.grid_stride},
        inference={},
        weights={},
        training={},
    )
    save_model(tmp_path / "model.safetensors", net, header)
    again, found = load_model(tmp_path / "model.safetensors")
    assert isinstance(again, AffinityNet)
    assert found.kind == "affinity"
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(images), net(images))
