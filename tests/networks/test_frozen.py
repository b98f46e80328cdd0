import copy

import torch
from torch import nn

from tag2mask.networks.frozen import Frozen


class Outer(nn.Module):
    """A trained layer beside a frozen network with batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Linear(3, 3)
        inner = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
        self.judge = Frozen(inner)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.judge(self.own(inputs))
        return found


def state(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_training_around_it_leaves_it_alone() -> None:
    torch.manual_seed(0)
    outer = Outer().train()
    before = state(outer.judge.network)
    assert not any(module.training for module in outer.judge.network.modules())
    inputs = torch.randn(8, 3)
    assert torch.equal(outer(inputs), outer(inputs))
    optimizer = torch.optim.SGD(outer.parameters(), lr=0.1, weight_decay=0.1)
    first = outer(inputs).square().mean().item()
    for _ in range(5):
        optimizer.zero_grad()
        outer(inputs).square().mean().backward()
        optimizer.step()
    assert outer(inputs).square().mean().item() < first
    after = state(outer.judge.network)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in outer.judge.network.parameters())


def test_it_is_no_part_of_the_state() -> None:
    outer, other = Outer(), Outer()
    assert set(outer.state_dict()) == {"own.weight", "own.bias"}
    assert [name for name, _ in outer.named_parameters()] == ["own.weight", "own.bias"]
    kept = state(other.judge.network)
    other.load_state_dict(outer.state_dict(), strict=True)
    assert torch.equal(other.own.weight, outer.own.weight)
    assert all(torch.equal(value, kept[name]) for name, value in other.judge.network.state_dict().items())


def test_it_moves_with_what_is_around_it() -> None:
    outer = Outer().to(torch.float64)
    assert {value.dtype for value in outer.judge.network.parameters()} == {torch.float64}
    assert outer.judge.network[1].running_mean.dtype == torch.float64
    assert next(outer.to("meta").judge.network.parameters()).is_meta


def test_a_copy_is_frozen_too() -> None:
    outer = Outer().train()
    twin = copy.deepcopy(outer)
    assert twin.judge.network is not outer.judge.network
    inputs = torch.randn(4, 3)
    assert torch.equal(twin(inputs), outer(inputs))
    with torch.no_grad():
        outer.judge.network[0].weight.zero_()
    assert twin.judge.network[0].weight.any()
    assert not any(parameter.requires_grad for parameter in twin.judge.network.parameters())
