"""Labels made before the training and never changed by it."""

from torch import Tensor, nn

from tag2mask.engine.system import Batch, Position
from tag2mask.supervision.targets import Targets


class FixedMasks(nn.Module):
    """The batch's own ``labels`` are the targets."""

    needs: frozenset[str] = frozenset()

    def forward(self, batch: Batch, scores: Tensor, network: nn.Module, position: Position) -> Targets:
        """Targets from ``batch["labels"]``, (N, h, w)."""
        return Targets(labels=batch["labels"])
