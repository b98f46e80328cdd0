"""A trained network that another one learns from, and that stays as it is."""

from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar

from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class Frozen(nn.Module, Generic[Network]):
    """A network in evaluation mode whose weights nothing changes.

    It stays in evaluation mode when the module around it trains, so that its batch norm keeps its statistics and
    dropout does nothing. Its weights take no gradient, but gradients flow through it to its input. They are neither
    among the `parameters` nor in the state dict of the module around it: no optimiser sees them, and a checkpoint does
    not repeat what another artifact holds. It moves to devices with the module around it.

    Args:
        network: is changed: brought to evaluation mode, its parameters frozen.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        # In a tuple, where torch does not look for submodules.
        self._held = (network.eval().requires_grad_(False),)

    @property
    def network(self) -> Network:
        """The network that is held."""
        return self._held[0]

    def forward(self, *inputs: Any, **options: Any) -> Tensor:
        """Output of the network that is held."""
        found: Tensor = self.network(*inputs, **options)
        return found

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # What `to`, `cuda` and `double` of this and any outer module come down to.
        self.network._apply(fn, recurse)
        return super()._apply(fn, recurse)
