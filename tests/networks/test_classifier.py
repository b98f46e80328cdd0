import pytest
import torch

from tag2mask.networks.backbones import create_backbone
from tag2mask.networks.classifier import Classifier, ClassifierBlock


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


@pytest.fixture(scope="module")
def with_block() -> Classifier:
    torch.manual_seed(0)
    backbone = create_backbone("tf_efficientnet_lite0", output_stride=16, weights="none", block="blocks.2")
    return Classifier(backbone, 3, dropout=0.5, width=8).eval()


def test_scores_of_a_block_are_the_mean_of_its_maps(with_block: Classifier) -> None:
    """Its hidden layers are not linear: pooling first would be another network."""
    images = torch.randn(2, 3, 40, 56)
    maps = with_block.score_maps(images)
    assert maps.shape == (2, 3, 5, 7)
    assert torch.allclose(with_block(images), maps.mean((2, 3)), atol=1e-6)
    features = with_block.backbone(images)
    assert torch.allclose(with_block.scores(features), maps.mean((2, 3)), atol=1e-6)
    pooled_first = with_block.head(features.mean((2, 3), keepdim=True)).flatten(1)
    assert not torch.allclose(pooled_first, maps.mean((2, 3)), atol=1e-4)


def test_layers_of_a_block(with_block: Classifier) -> None:
    shapes = [tuple(parameter.shape) for parameter in with_block.head_parameters()]
    channels = with_block.backbone.channels
    assert shapes == [(8, channels, 3, 3), (8,), (8, 8, 3, 3), (8,), (3, 8, 1, 1), (3,)]
    assert all(not p.any() for p in with_block.head_parameters() if p.ndim == 1)


@pytest.mark.parametrize("dilation", [1, 3, 9])
def test_dilation_is_that_of_the_first_layer_and_keeps_the_size(dilation: int) -> None:
    block = ClassifierBlock(4, 3, width=8, dilation=dilation, dropout=0.5)
    convolutions = [layer for layer in block.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert [layer.dilation[0] for layer in convolutions] == [dilation, 1, 1]
    assert block(torch.randn(2, 4, 5, 6)).shape == (2, 3, 5, 6)


def test_dropout_of_a_block_drops_whole_channels_in_training_alone(with_block: Classifier) -> None:
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(with_block(images), with_block(images))
    block = ClassifierBlock(4, 3, width=16, dropout=0.5)
    hidden = block[0](torch.randn(1, 4, 6, 6))
    dropped = ~hidden.flatten(2).any(2)
    assert 0 < int(dropped.sum()) < 16


def test_names_in_old_model_files(network: Classifier, with_block: Classifier) -> None:
    def of_head(classifier: Classifier) -> list[str]:
        return [name for name in classifier.state_dict() if not name.startswith("backbone.")]

    assert of_head(network) == ["head.weight"]
    assert {name.partition(".")[0] for name in of_head(with_block)} == {"head"}
