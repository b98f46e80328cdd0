"""Convolutions with their batch norm worked in: the same result, the same state dict, the same training."""

import copy
import io
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from tag2mask.networks import feature_blocks
from tag2mask.networks.backbones import Backbone, create_backbone
from tag2mask.networks.folded_norm import fold_batch_norms
from tests.networks.conftest import awaken

# the batch norms of each that can be folded; outputs of MixNet's mixed convolutions are put together before theirs
NAMES = {"tf_efficientnet_lite0": 49, "resnet18": 20, "vgg11_bn": 8, "tf_mixnet_s": 15}


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
    """Convolutions that were folded; as many batch norms must be."""
    counts = [
        sum("forward" in vars(module) for module in network.modules() if isinstance(module, kind))
        for kind in (nn.Conv2d, nn.BatchNorm2d)
    ]
    assert counts[0] == counts[1]
    return counts[0]


def close(first: Tensor, second: Tensor) -> bool:
    return bool((first - second).abs().max() <= 1e-4 * second.abs().max())


@pytest.mark.parametrize("name", NAMES)
def test_outputs_and_gradients_are_those_of_batch_norm(
    pair: Callable[..., tuple[Backbone, Backbone]], name: str
) -> None:
    folded, apart = pair(name, train_norm_affine=True)
    assert count(folded) == NAMES[name]
    assert count(apart) == 0
    outputs = []
    for network in (folded, apart):
        network.double()
        outputs.append(network(images().double()))
        outputs[-1].square().mean().backward()
    assert torch.allclose(outputs[0], outputs[1], rtol=1e-10, atol=1e-12)
    for (key, ours), theirs in zip(folded.named_parameters(), apart.parameters(), strict=True):
        assert ours.grad is not None, key
        assert theirs.grad is not None, key
        assert (ours.grad - theirs.grad).abs().max() <= 1e-10 * theirs.grad.abs().max(), key


def test_names_and_values_of_the_state_dict_stay(pair: Callable[..., tuple[Backbone, Backbone]]) -> None:
    folded, apart = pair("resnet18")
    ours, theirs = folded.state_dict(), apart.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert [name for name, _ in folded.named_parameters()] == [name for name, _ in apart.named_parameters()]
    assert [name for name, _ in folded.named_modules()] == [name for name, _ in apart.named_modules()]
    assert isinstance(folded.network.get_submodule("conv1").weight, nn.Parameter)


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


def test_every_change_takes_effect_at_once(pair: Callable[..., tuple[Backbone, Backbone]]) -> None:
    folded, apart = pair("resnet18")
    for network in (folded, apart):
        network.eval()

    def conv(network: Backbone) -> nn.Parameter:
        return network.network.get_submodule("conv1").get_parameter("weight")

    def norm(network: Backbone) -> nn.Module:
        return network.network.get_submodule("bn1")

    changes: list[Callable[[Backbone], object]] = [
        lambda network: conv(network).mul_(1.5),
        lambda network: conv(network).data.mul_(1.5),
        lambda network: nn.init.constant_(network.network.get_submodule("conv1").weight, 0.01),  # type: ignore[arg-type]
        lambda network: norm(network).get_buffer("running_mean").data.add_(0.5),
        lambda network: norm(network).get_parameter("bias").data.add_(0.5),
        lambda network: network.load_state_dict({key: 0.9 * value for key, value in network.state_dict().items()}),
        lambda network: network.to(memory_format=torch.channels_last),
        lambda network: network.double(),
    ]
    with torch.no_grad():
        before = folded(images())
        for index, change in enumerate(changes):
            for network in (folded, apart):
                change(network)
            batch = images().double() if index == 7 else images()
            after = folded(batch)
            assert close(after, apart(batch)), index
            assert index > 5 or not torch.equal(after, before), index
            before = after


def saved(network: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


def pickled(network: nn.Module) -> nn.Module:
    loaded: nn.Module = pickle.loads(pickle.dumps(network))
    return loaded


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled, saved])
def test_copies_are_folded_and_have_their_own_weights(
    pair: Callable[..., tuple[Backbone, Backbone]], copied: Callable[[nn.Module], nn.Module]
) -> None:
    folded = pair("tf_efficientnet_lite0")[0].eval()
    other = copied(folded)
    assert count(other) == count(folded)
    with torch.no_grad():
        expected = folded(images())
        assert torch.equal(other(images()), expected)
        for parameter in folded.parameters():
            parameter.zero_()
        assert torch.equal(other(images()), expected)
        for parameter in other.parameters():
            parameter.zero_()
        assert not torch.equal(other(images()), expected)


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated
@pytest.mark.parametrize("gradients", [False, True])
def test_can_be_traced(pair: Callable[..., tuple[Backbone, Backbone]], gradients: bool) -> None:
    folded = pair("resnet18")[0].eval()
    with torch.set_grad_enabled(gradients):
        traced = torch.jit.trace(folded, images())
        assert torch.equal(traced(images()), folded(images()))


def test_runs_on_stacked_weights(pair: Callable[..., tuple[Backbone, Backbone]]) -> None:
    networks = [network.eval() for network in pair("resnet18")]
    for parameter in networks[1].parameters():
        parameter.data.mul_(0.9)
    stacked, batch = stack_module_state(networks), images()
    with torch.no_grad():
        together = vmap(lambda *state: functional_call(networks[0], state, (batch,)))(*stacked)
        for ours, network in zip(together, networks, strict=True):
            assert close(ours, network(batch))


def test_can_be_made_in_inference_mode_and_without_values() -> None:
    with torch.inference_mode():
        assert count(create_backbone("resnet18", weights="none")) == NAMES["resnet18"]
    with torch.device("meta"):
        assert count(create_backbone("resnet18", weights="none")) == NAMES["resnet18"]


def test_runs_in_inference_mode_and_then_trains(pair: Callable[..., tuple[Backbone, Backbone]]) -> None:
    folded = pair("resnet18")[0]
    folded.freeze("layer1")
    with torch.inference_mode():
        expected = folded(images())
    output = folded(images())
    output.sum().backward()
    assert close(output, expected)


def test_runs_in_mixed_precision(pair: Callable[..., tuple[Backbone, Backbone]]) -> None:
    folded = pair("resnet18")[0]
    with torch.autocast("cpu", torch.bfloat16):
        output = folded(images())
    assert output.dtype == torch.bfloat16
    output.float().square().mean().backward()
    expected = folded(images())
    assert (output - expected).abs().max() <= 0.1 * expected.abs().max()


def test_runs_in_two_threads(pair: Callable[..., tuple[Backbone, Backbone]]) -> None:
    folded = pair("resnet18")[0].eval()

    @torch.no_grad()
    def run(_: int) -> Tensor:
        return torch.as_tensor(folded(images()))

    expected = run(0)
    with ThreadPoolExecutor(2) as pool:
        assert all(torch.equal(output, expected) for output in pool.map(run, range(8)))


class Reader(nn.Module):
    """A convolution and its batch norm, and what else is made of the convolution's output.

    Args:
        read: makes the result of the outputs of both.
    """

    def __init__(self, read: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.norm, self.read = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), read

    def forward(self, inputs: Tensor) -> Tensor:
        seen = self.conv(inputs)
        return self.read(self.norm(seen), seen)


@pytest.mark.parametrize(
    "read",
    [
        lambda normed, seen: normed + seen,
        lambda normed, seen: normed + 0 * seen,
        lambda normed, seen: normed + torch.zeros(()) * torch.cat([seen]).detach(),
        lambda normed, seen: normed + 0 * seen.data,
        lambda normed, seen: normed * (1 + 0 * seen.mean().item()),
        lambda normed, seen: torch.where(normed > normed.max(), torch.stack([seen, seen])[0], normed),
        lambda normed, seen: torch.add(normed, other=seen, alpha=0),
        lambda normed, seen: seen,
    ],
)
def test_a_convolution_that_something_else_reads_stays_as_it_was(read: Callable[[Tensor, Tensor], Tensor]) -> None:
    network = awaken(Reader(read)).eval()
    inputs = images()
    before = network(inputs)
    assert fold_batch_norms(network, lambda: network(inputs)) == count(network) == 0
    assert torch.equal(network(inputs), before)


def test_questions_about_the_shape_are_no_use() -> None:
    def read(normed: Tensor, seen: Tensor) -> Tensor:
        assert seen.is_contiguous()
        return normed * seen.shape[1] * seen.size(0) * seen.ndim * seen.dim() * seen.stride(3) * seen.dtype.itemsize

    network = awaken(Reader(read)).eval()
    inputs = images()
    before = network(inputs)
    assert fold_batch_norms(network, lambda: network(inputs)) == count(network) == 1
    assert close(network(inputs), before)


def test_what_a_hook_reads_is_a_use() -> None:
    network = awaken(Reader(lambda normed, seen: normed)).eval()
    network.conv.register_forward_hook(lambda module, inputs, output: output.mean() and None)
    assert fold_batch_norms(network, lambda: network(images())) == 0


def test_a_failing_run_leaves_everything_as_it_was() -> None:
    network = Reader(lambda normed, seen: normed[:, :, 10_000])
    with pytest.raises(IndexError):
        fold_batch_norms(network, lambda: network(images()))
    assert count(network) == 0
    assert not network.conv._forward_hooks


class OwnConvolution(nn.Conv2d):
    """Does more than a convolution."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class OwnNorm(nn.BatchNorm2d):
    """Does more than a batch norm."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


@pytest.mark.parametrize(
    ("conv", "norm", "expected"),
    [
        (nn.Conv2d(3, 6, 3, bias=True), nn.BatchNorm2d(6), 1),
        (nn.Conv2d(3, 6, 3, 2, padding=2, dilation=2, groups=3, padding_mode="reflect"), nn.BatchNorm2d(6), 1),
        (nn.Conv2d(3, 6, 3, padding="same", bias=False), BatchNormAct2d(6), 1),
        (Conv2dSame(3, 6, 3, stride=2, groups=3, bias=True), BatchNormAct2d(6, act_layer=nn.Sigmoid), 1),
        (Conv2dSame(3, 6, 4, stride=3, dilation=2, bias=False), BatchNormAct2d(6, apply_act=False), 1),
        (OwnConvolution(3, 6, 3), nn.BatchNorm2d(6), 0),
        (nn.Conv2d(3, 6, 3), OwnNorm(6), 0),
        (nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, affine=False), 0),
    ],
)
def test_kinds_of_layers(conv: nn.Module, norm: nn.Module, expected: int) -> None:
    network = awaken(nn.Sequential(conv, norm, nn.ReLU())).eval()
    before = network(images())
    assert fold_batch_norms(network, lambda: network(images())) == count(network) == expected
    assert close(network(images()), before)
    assert fold_batch_norms(network, lambda: network(images())) == 0  # not again
    assert close(network(images()), before)


def test_modules_that_run_twice_stay_as_they_were() -> None:
    conv, norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
    network = awaken(nn.Sequential(conv, norm, conv, norm)).eval()
    assert fold_batch_norms(network, lambda: network(images())) == count(network) == 0
