import pytest
import torch

from tag2mask.networks.backbones import create_backbone
from tag2mask.networks.classifier import Classifier


@pytest.fixture(scope="module")
def network() -> Classifier:
    torch.manual_seed(0)
    backbone = create_backbone("tf_efficientnet_lite0", output_stride=16, weights="none", block="blocks.2")
    return Classifier(backbone, 3, dropout=0.5).eval()


def test_scores_are_the_mean_of_the_score_maps(network: Classifier) -> None:
    images = torch.randn(2, 3, 40, 56)
    maps = network.score_maps(images)
    assert maps.shape == (2, 3, 5, 7)  # blocks.2 has stride 8
    assert torch.allclose(network(images), maps.mean((2, 3)), atol=1e-6)
    assert torch.allclose(network.probabilities(images), 1 / (1 + torch.exp(-maps.mean((2, 3)))), atol=1e-6)


def test_without_features_there_is_no_score(network: Classifier) -> None:
    """A bias would be evidence for a class that no place in the image gives."""
    assert network.head.bias is None
    assert not network.head(torch.zeros(1, network.backbone.channels, 2, 2)).any()


def test_head_parameters_are_all_that_is_new(network: Classifier) -> None:
    (weight,) = network.head_parameters()
    assert weight.shape == (3, network.backbone.channels, 1, 1)
    assert {id(weight)} == {id(p) for p in network.parameters()} - {id(p) for p in network.backbone.parameters()}


def test_dropout_in_training_alone(network: Classifier) -> None:
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(network(images), network(images))
    network.train()
    try:
        assert not torch.equal(network(images), network(images))
    finally:
        network.eval()


def test_probabilities_keep_no_graph(network: Classifier) -> None:
    assert not network.probabilities(torch.zeros(1, 3, 32, 32)).requires_grad
    assert network(torch.zeros(1, 3, 32, 32)).requires_grad
