import pytest
import torch

from tag2mask.engine.environment import Runtime
from tag2mask.errors import SettingsError
from tag2mask.stages.backbone import BackboneSettings
from tag2mask.study.superpixels.features import open_features
from tag2mask.study.superpixels.settings import FeatureSet
from tests.study.superpixels.conftest import TRANSFORMER

RUNTIME = Runtime(device="cpu", threads=1).resolved()
SIZE = (48, 64)


@pytest.fixture
def photograph() -> torch.Tensor:
    return torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_colours_are_means_of_cells(photograph: torch.Tensor) -> None:
    extract = open_features(FeatureSet("rgb", long_side=64, cell=8), RUNTIME)
    found = extract(photograph)
    assert found.shape == (3, 6, 8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    corner = photograph[:, :8, 8:16].double().mean((1, 2)) / 255
    torch.testing.assert_close(found[:, 0, 1].double(), (corner - mean) / std, rtol=1e-4, atol=1e-5)


def test_keys_come_from_the_backbone(photograph: torch.Tensor) -> None:
    settings = FeatureSet("keys", TRANSFORMER, long_side=64, centre="mean")
    found = open_features(settings, RUNTIME)(photograph)
    assert found.shape == (192, 3, 4)
    torch.testing.assert_close(found.mean((1, 2)), torch.zeros(192), atol=1e-5, rtol=0)
    assert not found.requires_grad


def test_a_networks_last_features(photograph: torch.Tensor) -> None:
    settings = FeatureSet("features", BackboneSettings(output_stride=8, weights="none", block="blocks.3"), long_side=64)
    assert open_features(settings, RUNTIME)(photograph).shape == (80, 6, 8)
    tokens = FeatureSet("features", TRANSFORMER, long_side=64)
    assert open_features(tokens, RUNTIME)(photograph).shape == (192, 3, 4)


def test_a_cnn_has_no_keys() -> None:
    with pytest.raises(SettingsError, match="no vision transformer"):
        open_features(FeatureSet("keys", BackboneSettings(weights="none")), RUNTIME)
