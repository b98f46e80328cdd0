"""Our VGG is timm's at stride 32, and the same weights at a smaller stride see the same neighbourhoods."""

import pytest
import timm
import torch
from torch import nn

from tag2mask.networks.backbones import create_backbone
from tag2mask.networks.vgg import NAMES, OUTPUT_STRIDES, STAGES, VGG


@pytest.mark.parametrize("name", ["vgg16", "vgg11_bn"])
def test_equals_timm_at_stride_32(name: str) -> None:
    torch.manual_seed(0)
    reference = timm.create_model(name, num_classes=0, mlp_ratio=0.01)  # a small head, which is not compared
    reference.pre_logits = nn.Identity()
    ours = VGG(name, 32)
    features = {key: value for key, value in reference.state_dict().items() if key.startswith("features.")}
    ours.load_state_dict(features)
    images = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            ours.eval().features(images), reference.eval().forward_features(images), atol=0, rtol=0
        )


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_timms(name: str) -> None:
    with torch.device("meta"):
        expected = timm.create_model(name, num_classes=0).state_dict()
        ours = VGG(name, 8).state_dict()
    shapes = {key: value.shape for key, value in expected.items() if key.startswith("features.")}
    assert {key: value.shape for key, value in ours.items()} == shapes


@pytest.mark.parametrize("output_stride", OUTPUT_STRIDES)
def test_strides_and_dilations(output_stride: int) -> None:
    with torch.device("meta"):
        network = VGG("vgg16", output_stride)
    convolutions = [layer for layer in network.features if isinstance(layer, nn.Conv2d)]
    pools = [layer for layer in network.features if isinstance(layer, nn.MaxPool2d)]
    assert len(convolutions) == sum(STAGES["vgg16"])
    assert [layer.dilation[0] for layer in convolutions[-3:]] == [2 if output_stride == 8 else 1] * 3
    assert {layer.dilation[0] for layer in convolutions[:-3]} == {1}
    kept = {8: [2, 2, 2, 1, 1], 16: [2, 2, 2, 2, 1], 32: [2, 2, 2, 2, 2]}[output_stride]
    assert [pool.stride for pool in pools] == kept
    assert [(pool.kernel_size, pool.padding) for pool in pools] == [(3, 1) if step == 1 else (2, 0) for step in kept]


@pytest.mark.parametrize("output_stride", OUTPUT_STRIDES)
@pytest.mark.parametrize("size", [(64, 96), (65, 41)])
def test_feature_sizes(output_stride: int, size: tuple[int, int]) -> None:
    backbone = create_backbone("vgg11", output_stride=output_stride, weights="none")
    with torch.no_grad():
        features = backbone(torch.zeros(1, 3, *size))
    assert features.shape == (1, 512, -(-size[0] // output_stride), -(-size[1] // output_stride))
    assert backbone.stride == output_stride


def test_dilated_features_hold_the_strided_ones() -> None:
    """Without the pools' choice of maxima, stride 8 computes stride 16's fifth stage on a finer grid.

    On an image that is constant along both axes every pool is the identity, so the inner features must agree.
    """
    torch.manual_seed(0)
    fine = create_backbone("vgg11", output_stride=8, block="conv5", weights="none")
    coarse = create_backbone("vgg11", output_stride=32, block="conv5", weights="none")
    coarse.load_state_dict(fine.state_dict())
    image = torch.randn(1, 3, 1, 1).expand(1, 3, 256, 256)
    with torch.no_grad():
        inner_fine, inner_coarse = fine(image)[..., 16, 16], coarse(image)[..., 8, 8]
    torch.testing.assert_close(inner_fine, inner_coarse)
