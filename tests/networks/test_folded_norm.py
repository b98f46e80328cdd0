"""Convolutions with their batch norm worked in: the same result, the same state dict, the same training."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tag2mask.networks import feature_blocks
from tag2mask.networks.backbones import Backbone, create_backbone
from tag2mask.networks.folded_norm import fold_batch_norms
from tests.networks.test_feature_blocks import awaken

NAMES = ["tf_efficientnet_lite0", "resnet18", "vgg11_bn", "mixnet_s"]


def images() -> Tensor:
    return torch.randn(2, 3, 53, 70, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Backbone, Backbone]]:
    """A backbone as it is made, and the same with its batch norms apart."""

    def make(name: str, **options: bool) -> tuple[Backbone, Backbone]:
        torch.manual_seed(0)
        folded = awaken(create_backbone(name, weights="none", **options))  # type: ignore[arg-type]
        with monkeypatch.context() as context:
            context.setattr(feature_blocks, "fold_batch_norms", lambda network, run: 0)
            apart = create_backbone(name, weights="none", **options)  # type: ignore[arg-type]
        apart.load_state_dict(folded.state_dict())
        return folded, apart

    return make


def count(network: nn.Module) -> int:
    return sum("_norm" in vars(module) for module in network.modules())


def close(first: Tensor, second: Tensor) -> bool:
    return bool((first - second).abs().max() <= 1e-4 * second.abs().max())


@pytest.mark.parametrize("name", NAMES)
def test_equal_to_batch_norm_up_to_rounding(pair: Callable[..., tuple[Backbone, Backbone]], name: str) -> None:
    folded, apart = pair(name)
    assert count(folded) > 0
    assert count(apart) == 0
    for network in (folded, apart):
        network.eval()
    expected = apart(images())
    assert close(folded(images()), expected)  # with gradients: made afresh
    with torch.no_grad():
        assert close(folded(images()), expected)  # kept
        assert close(folded(images()), expected)
        assert close(copy.deepcopy(folded)(images()), expected)


def test_names_and_values_of_the_state_dict_stay(pair: Callable[..., tuple[Backbone, Backbone]]) -> None:
    folded, apart = pair("resnet18")
    ours, theirs = folded.state_dict(), apart.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert [name for name, _ in folded.named_parameters()] == [name for name, _ in apart.named_parameters()]


@pytest.mark.parametrize("affine", [False, True])
def test_a_training_goes_the_same_way(pair: Callable[..., tuple[Backbone, Backbone]], affine: bool) -> None:
    folded, apart = pair("tf_efficientnet_lite0", train_norm_affine=affine)
    states = []
    for network in (folded, apart):
        network.double().freeze("blocks.1")
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        before = [parameter.detach().clone() for parameter in trained]
        optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            network(images().double()).square().mean().backward()
            optimizer.step()
        assert not any(torch.equal(old, new) for old, new in zip(before, trained, strict=True))
        states.append(network.state_dict())
    for key in states[0]:
        assert torch.allclose(states[0][key], states[1][key], rtol=1e-5, atol=1e-8), key


def test_what_is_kept_follows_every_change(pair: Callable[..., tuple[Backbone, Backbone]]) -> None:
    folded, apart = pair("resnet18")
    for network in (folded, apart):
        network.eval()
    changes: list[Callable[[Backbone], object]] = [
        lambda network: network.network.get_submodule("conv1")._parameters["weight"].mul_(1.5),  # type: ignore[union-attr]
        lambda network: network.network.get_submodule("bn1").get_buffer("running_mean").add_(0.5),
        lambda network: network.network.get_submodule("bn1").get_parameter("bias").add_(0.5),
        lambda network: network.load_state_dict({key: 0.9 * value for key, value in network.state_dict().items()}),
        lambda network: network.to(memory_format=torch.channels_last),
        lambda network: network.double(),
    ]
    with torch.no_grad():
        before = folded(images())
        for index, change in enumerate(changes):
            for network in (folded, apart):
                change(network)
            batch = images().double() if index == 5 else images()
            after = folded(batch)
            assert close(after, apart(batch)), index
            assert index > 3 or not torch.equal(after, before), index
            before = after


class Shared(nn.Module):
    """Reads a convolution's output beside its batch norm, which then cannot be folded."""

    def __init__(self, apart: bool) -> None:
        super().__init__()
        self.conv, self.norm, self.last, self.end = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), apart

    def forward(self, inputs: Tensor) -> Tensor:
        seen = self.conv(inputs)
        normed = self.norm(seen)
        return torch.as_tensor(normed if self.end else self.last(normed + seen))


@pytest.mark.parametrize("apart", [False, True])
def test_a_convolution_that_something_else_reads_stays_as_it_was(apart: bool) -> None:
    network = awaken(Shared(apart)).eval()
    inputs = images()
    before = network(inputs)
    assert fold_batch_norms(network, lambda: network(inputs)) == int(apart)
    assert close(network(inputs), before)
    assert type(network.conv) is not nn.Conv2d if apart else type(network.conv) is nn.Conv2d
    assert count(network) == int(apart)


def test_modules_that_run_twice_stay_as_they_were() -> None:
    conv, norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
    network = awaken(nn.Sequential(conv, norm, conv, norm)).eval()
    assert fold_batch_norms(network, lambda: network(images())) == 0
    assert type(norm) is nn.BatchNorm2d


def test_a_bias_of_the_convolution_counts() -> None:
    network = awaken(nn.Sequential(nn.Conv2d(3, 5, 3, bias=True), nn.BatchNorm2d(5), nn.ReLU())).eval()
    before = network(images())
    assert fold_batch_norms(network, lambda: network(images())) == 1
    assert close(network(images()), before)
