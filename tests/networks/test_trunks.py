from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tag2mask.data.view import tiled_grid, tiled_view
from tag2mask.errors import SettingsError
from tag2mask.networks.backbones import create_backbone
from tag2mask.networks.classifier import Classifier
from tag2mask.networks.inference import InferenceSettings, ScaleSettings, image_scales, segment
from tag2mask.networks.model_file import ModelHeader, load_model, save_model
from tag2mask.networks.segmenter import HeadSettings, Segmenter
from tag2mask.networks.trunks import JOINED, Trunks, part_view, single

CPU = torch.device("cpu")
OFF = torch.autocast("cpu", enabled=False)


def trunks(*, standardised: bool = True) -> Trunks:
    """A CNN at two blocks and sizes, and a small transformer; 8 cells along the long side, 4 for the second."""
    torch.manual_seed(0)
    made = Trunks(
        [
            create_backbone("tf_efficientnet_lite0", output_stride=16, block="blocks.3", weights="none"),
            create_backbone("tf_efficientnet_lite0", output_stride=32, block="blocks.5", weights="none"),
            create_backbone("vit_tiny_patch16_224", output_stride=16, block="blocks.1", weights="none"),
        ],
        [128, 128, 256],
    )
    if standardised:
        made.standardise(torch.randn(made.channels), torch.rand(made.channels) + 0.5)
    return made.eval()


@pytest.fixture
def image() -> Tensor:
    return torch.randint(0, 256, (3, 60, 100), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def test_every_network_sees_the_image_whole_at_its_own_size(image: Tensor) -> None:
    shapes = [tuple(shown.shape) for shown in trunks().views(image)]
    assert shapes == [(1, 3, 80, 128), (1, 3, 64, 128), (1, 3, 160, 256)]
    assert [tuple(shown.shape[2:]) for shown in trunks().views(image, 0.5)] == [(32, 64), (32, 64), (80, 128)]
    for backbone, shown in zip(trunks().parts, trunks().views(image), strict=True):
        grey = torch.full_like(image, 90)
        mean, std = torch.tensor(backbone.mean), torch.tensor(backbone.std)  # type: ignore[arg-type]
        expected = ((90 / 255 - mean) / std)[:, None, None].expand(shown.shape[1:])
        assert torch.allclose(part_view(grey, backbone, shown.shape[3])[0], expected, atol=1e-5)  # type: ignore[arg-type]


def test_features_are_joined_on_the_grid_of_the_first(image: Tensor) -> None:
    network = trunks()
    assert (network.cells, network.stride, network.channels) == (8, 16, sum(p.channels for p in network.parts))  # type: ignore[misc]
    images = network.views(image)
    with torch.no_grad():
        parts = [backbone(shown) for backbone, shown in zip(network.parts, images, strict=True)]
    assert [tuple(part.shape[2:]) for part in parts] == [(5, 8), (2, 4), (10, 16)]
    coarse = F.interpolate(parts[1], (5, 8), mode="bilinear", align_corners=False)
    fine = F.adaptive_avg_pool2d(parts[2], (5, 8))
    joined = torch.cat([parts[0], coarse, fine], 1)
    expected = ((joined - network.mean[:, None, None]) / network.std[:, None, None]).clamp(-6, 6)
    assert torch.allclose(network(images), expected)
    assert torch.equal(network.join(parts), network(images))
    assert torch.equal(network.forward_from(network(images), JOINED), network(images))


def test_nothing_of_it_is_trained(image: Tensor) -> None:
    network = trunks().train()
    assert not any(module.training for part in network.parts for module in part.modules())
    head = Segmenter(network, 3, HeadSettings(width=8, dilations=(1,), dropout=0.0))
    head(network.views(image)).sum().backward()
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(parameter.grad is not None for parameter in head.head.parameters())


def test_a_segmenter_on_several_networks_segments_whole_photographs(image: Tensor) -> None:
    network = Segmenter(trunks(), 3, HeadSettings(width=8, dilations=(1,), dropout=0.0)).eval()
    probabilities = segment(network, image, InferenceSettings(scales=(1.0, 0.5)), CPU, OFF)
    assert probabilities.shape == (3, 60, 100)
    assert torch.allclose(probabilities.sum(0), torch.ones(60, 100), atol=1e-5)
    mirrored = segment(network, image.flip(2), InferenceSettings(scales=(1.0, 0.5)), CPU, OFF)
    assert torch.allclose(mirrored.flip(2), probabilities, atol=1e-4)


def test_batches_hold_the_mirror_image_of_every_size(image: Tensor) -> None:
    (shown,) = image_scales(image, trunks(), ScaleSettings(), CPU)
    assert [tuple(part.shape[:1]) for part in shown] == [(2,), (2,), (2,)]
    for part in shown:
        assert torch.equal(part[1], part[0].flip(2))


@pytest.mark.parametrize("kind", ["segmenter", "classifier"])
def test_a_model_file_carries_all_networks(tmp_path: Path, image: Tensor, kind: str) -> None:
    made = trunks()
    parts = [
        {"name": part.name, "output_stride": part.output_stride, "block": part.block, "long_side": side}
        for part, side in zip(made.parts, made.long_sides, strict=True)
    ]
    settings = {"kind": "largefov", "width": 8, "dilations": [1], "dropout": 0.0, "frozen_norm": False}
    network: Segmenter | Classifier = Classifier(made, 2).eval()
    if kind == "segmenter":
        network = Segmenter(made, 3, HeadSettings(width=8, dilations=(1,), dropout=0.0)).eval()
    header = ModelHeader(kind, ("a", "b"), {"trunks": parts}, settings if kind == "segmenter" else {}, {}, {}, {})
    save_model(tmp_path / "model.safetensors", network, header)
    again, read = load_model(tmp_path / "model.safetensors")
    assert read.backbone == {"trunks": parts}
    with torch.no_grad():
        assert torch.equal(again(made.views(image)), network(made.views(image)))


def test_cells_that_do_not_count_are_left_out_of_the_pooling() -> None:
    classifier = Classifier(trunks(), 2, width=4).eval()
    features = torch.randn(1, classifier.backbone.channels, 3, 4)
    inside = torch.zeros(1, 3, 4, dtype=torch.bool)
    inside[:, :2, :3] = True
    maps = classifier.head(features)
    assert torch.allclose(classifier.scores(features, inside), maps[:, :, :2, :3].mean((2, 3)), atol=1e-6)
    plain = Classifier(trunks(), 2).eval()
    expected = plain.head(features)[:, :, :2, :3].mean((2, 3))
    assert torch.allclose(plain.scores(features, inside), expected, atol=1e-5)


def test_what_cannot_be_is_told() -> None:
    backbone = create_backbone("tf_efficientnet_lite0", block="blocks.3", weights="none")
    with pytest.raises(SettingsError, match=r"long_side 100 of 'tf_efficientnet_lite0'.*stride 16.*96, 112"):
        Trunks([backbone], [100])
    with pytest.raises(SettingsError, match="one network or more"):
        Trunks([], [])
    with pytest.raises(SettingsError, match="blocks of a single network"):
        single(trunks())
    with pytest.raises(SettingsError, match=r"'blocks\.1': several networks"):
        trunks().features_at(torch.zeros(1), ["blocks.1"], after=JOINED)
    assert single(backbone) is backbone


@pytest.mark.parametrize("size", [(60, 100), (100, 60), (7, 500), (33, 33)])
def test_cells_tile_the_image(size: tuple[int, int]) -> None:
    rows, columns = tiled_grid(size, 8)
    assert max(rows, columns) == 8
    assert abs(rows / columns - size[0] / size[1]) <= 1
    view = tiled_view(size, 5, 8, mirror=True, pad_to=8)
    assert view.resized == (rows * 5, columns * 5)
    assert view.crop == (0, 0, 40, 40)
    assert view.mirror
