"""Module that the training loop trains: named parts whose forward pass returns named losses."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Batch = dict[str, Any]
"""Tensors of a batch by name; ``"id"`` is the list of image ids."""

Losses = Mapping[str, tuple[Tensor, Tensor]]
"""Named losses as (sum, count): the loss is the sum of the quotients, and an empty count gives 0 with zero gradient."""


class Position(NamedTuple):
    """Position in a training: what random draws and scheduled losses may depend on.

    A tuple, because Fabric looks through the arguments of a forward pass for tensors and stops at frozen dataclasses.
    """

    step: int
    steps: int
    epoch: int
    seed: int


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate: `multiplier` times the base rate."""

    parameters: list[nn.Parameter]
    multiplier: float = 1.0


class System(nn.Module, ABC):
    """Base of everything that is trained."""

    @abstractmethod
    def forward(self, batch: Batch, position: Position) -> Losses:
        """Losses of one batch."""

    @abstractmethod
    def parameter_groups(self) -> dict[str, list[ParameterGroup]]:
        """Parameters by owner; each owner has an optimiser of its own."""


def total_loss(losses: Losses) -> Tensor:
    """Sum of the named losses' means; a loss with an empty count is 0 and keeps its graph.

    Raises:
        FloatingPointError: the total is not finite, with the values by name.
    """
    total = torch.stack([loss / count.clamp(min=1) for loss, count in losses.values()]).sum()
    if not torch.isfinite(total):
        parts = ", ".join(f"{name} {loss.item():.4g}/{count.item():.4g}" for name, (loss, count) in losses.items())
        raise FloatingPointError(f"the loss is {total.item()} ({parts}); a lower learning rate usually helps")
    return total
