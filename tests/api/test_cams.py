from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

import tag2mask
from tag2mask.api.cams import score_maps
from tag2mask.errors import SettingsError, WeightsError
from tag2mask.evidence.cam import merge_score_maps
from tag2mask.networks.backbones import create_backbone
from tag2mask.networks.classifier import Classifier
from tag2mask.networks.inference import ScaleSettings, image_scales
from tag2mask.networks.model_file import ModelHeader, save_model


@pytest.fixture(scope="module")
def array() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)


def test_maps_of_a_trained_classifier_are_those_of_a_run(array: np.ndarray, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Classifier(create_backbone("tf_efficientnet_lite0", block="blocks.2", weights="none"), 3).eval()
    backbone = {"name": "tf_efficientnet_lite0", "output_stride": 16, "block": "blocks.2"}
    header = ModelHeader("classifier", ("ant", "bee", "cow"), backbone, {}, {"long_side": 64}, {}, {})
    save_model(tmp_path / "c.safetensors", network, header)
    file = tmp_path / "c.safetensors"
    found = tag2mask.cams(file, array, ["cow", "ant"], scales=(1.0, 2.0), device="cpu", threads=1)
    assert found.classes == ("cow", "ant")
    settings = ScaleSettings(64, (1.0, 2.0))
    image = torch.from_numpy(array).permute(2, 0, 1)
    with torch.no_grad():
        batches = list(image_scales(image, network.backbone, settings, torch.device("cpu")))
        maps = [network.score_maps(batch)[:, [2, 0]] for batch in batches]
        scores = torch.stack([network(batch).mean(0) for batch in batches]).mean(0)
    assert np.allclose(found.maps, merge_score_maps(maps, (90, 120)).numpy(), atol=1e-4)
    assert np.allclose(found.scores, scores[[2, 0]].numpy(), atol=1e-4)
    assert tag2mask.cams(tag2mask.load_model(tmp_path / "c.safetensors", device="cpu"), array, [2]).classes == ("cow",)


FAMILIES = [
    "resnet18",
    "tf_efficientnet_lite0",
    "convnext_atto",
    "swin_tiny_patch4_window7_224",
    "vgg11",
    "hrnet_w18_small",
]


@pytest.mark.parametrize("name", [*FAMILIES, "vit_tiny_patch16_224", "mixer_s32_224", "levit_128s"])
def test_any_classifier_of_timm_has_maps(name: str, array: np.ndarray) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5).train()
    found = tag2mask.cams(model, array)
    assert model.training  # as it came in
    assert found.maps.shape == (3, 90, 120)
    assert 0 <= found.maps.min() <= found.maps.max() <= 1
    assert list(found.scores) == sorted(found.scores, reverse=True)
    with pytest.raises(SettingsError, match=r"unknown class '7'; choices: 0, 1, 2, 3, 4"):
        tag2mask.cams(model, array, [7])


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "densenet121"])
def test_where_features_are_pooled_the_maps_mean_is_the_score(name: str) -> None:
    """Zhou et al.: pooling and the linear layer change places."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=4).eval()
    images = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        scores, maps = score_maps(model, images)
        assert torch.allclose(scores, model(images), atol=1e-5)
    assert torch.allclose(maps.mean((2, 3)), scores, atol=1e-4)
    assert maps.shape[2:] == (3, 2)


def test_the_class_is_found_where_it_is() -> None:
    """A network that knows a colour finds it on its side of the image, mirrored or not."""

    class Red(nn.Module):
        num_classes, num_features, pretrained_cfg = (
            2,
            3,
            {"input_size": (3, 256, 256), "mean": (0, 0, 0), "std": (1, 1, 1)},
        )

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward_features(self, images: Tensor) -> Tensor:
            return nn.functional.avg_pool2d(images, 16) * self.scale

        def forward_head(self, features: Tensor) -> Tensor:
            return features.mean((2, 3))[:, [0, 2]]

    image = np.zeros((60, 100, 3), np.uint8)
    image[:, :40, 0] = 255
    found = tag2mask.cams(Red(), image, [0])
    assert found.maps[0][:, :30].min() > 0.9
    assert found.maps[0][:, 60:].max() < 0.1


def test_what_has_no_maps_says_so(array: np.ndarray) -> None:
    with pytest.raises(WeightsError, match="no classifying layer"):
        tag2mask.cams(timm.create_model("resnet18", num_classes=0), array)
    wrong: Any = nn.Linear(2, 2)
    with pytest.raises(WeightsError, match="Linear: neither a classifier of timm's"):
        tag2mask.cams(wrong, array)
