import pytest
import torch

from tag2mask.errors import SettingsError
from tag2mask.networks.backbones import create_backbone
from tag2mask.networks.classifier import Classifier
from tag2mask.networks.single_stage import CamBranch


def test_on_the_trunks_own_features() -> None:
    trunk = create_backbone("tf_efficientnet_lite0", block="blocks.4", weights="none")
    branch = CamBranch(trunk, Classifier(trunk, 3))
    images = torch.randn(2, 3, 64, 64)
    features = trunk(images)
    assert branch.features(features) is features
    assert torch.equal(branch.maps(features), branch.classifier.score_maps(images))
    assert branch.trained_blocks() == []
    assert any(parameter.requires_grad for parameter in trunk.parameters())


def test_on_later_blocks_of_its_own() -> None:
    trunk = create_backbone("tf_efficientnet_lite0", block="blocks.5", weights="none")
    trunk.freeze("blocks.3")
    whole = create_backbone("tf_efficientnet_lite0", weights="none")
    branch = CamBranch(trunk, Classifier(whole, 3))
    images = torch.randn(2, 3, 64, 64)
    maps = branch.maps(trunk(images))
    tail = {f"network.{name}" for name in ("blocks.6", "conv_head", "bn2")}
    trained = {id(parameter) for parameter in branch.trained_blocks()}
    names = {name for name, parameter in whole.named_parameters() if id(parameter) in trained}
    assert names
    assert all(any(name.startswith(part) for part in tail) for name in names)
    assert not torch.allclose(branch.classifier.score_maps(images), maps, atol=1e-4)  # earlier blocks are stale
    assert torch.allclose(branch.complete(trunk).score_maps(images), maps, atol=1e-6)


def test_an_earlier_block_cannot_be_gone_on_to() -> None:
    trunk = create_backbone("tf_efficientnet_lite0", block="blocks.4", weights="none")
    earlier = create_backbone("tf_efficientnet_lite0", block="blocks.3", weights="none")
    with pytest.raises(SettingsError, match=r"blocks\.4"):
        CamBranch(trunk, Classifier(earlier, 3))
