import pytest
import torch
from torch import nn

from tag2mask.engine.system import Batch, Losses, ParameterGroup, Position, System, total_loss


def test_the_total_is_the_sum_of_means() -> None:
    losses = {
        "seed": (torch.tensor(6.0), torch.tensor(4)),
        "boundary": (torch.tensor(1.0), torch.tensor(2.0)),
        "empty": (torch.tensor(0.0), torch.tensor(0)),
    }
    assert float(total_loss(losses)) == 6 / 4 + 1 / 2


def test_an_empty_loss_keeps_its_graph() -> None:
    """Distributed training waits for the gradient of every parameter, also of those that had no part today."""
    weight = torch.ones(2, requires_grad=True)
    total_loss({"off": (0 * weight.sum(), torch.tensor(0))}).backward()
    assert weight.grad is not None
    assert not weight.grad.any()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named(value: float) -> None:
    losses = {"seed": (torch.tensor(1.0), torch.tensor(2)), "boundary": (torch.tensor(value), torch.tensor(3))}
    with pytest.raises(FloatingPointError, match=rf"seed 1/2, boundary {value}/3.*learning rate"):
        total_loss(losses)


def test_a_group_learns_at_the_base_rate_unless_told() -> None:
    assert ParameterGroup([]).multiplier == 1.0


def test_a_system_says_what_it_trains() -> None:
    class Half(System):
        def forward(self, batch: Batch, position: Position) -> Losses:
            return {}

    with pytest.raises(TypeError, match="parameter_groups"):
        Half()  # type: ignore[abstract]
    assert issubclass(System, nn.Module)
