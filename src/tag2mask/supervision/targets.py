"""Targets of a training step, and the protocol that makes them."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from tag2mask.engine.system import Batch, Position


@dataclass(frozen=True)
class Targets:
    """Targets of one step, on the label grid of the scores.

    Args:
        labels: class ids (N, h, w), 255 unlabelled.
        refined: the network's softmax after a dense CRF, (N, C, h, w); None without one.
        confidence: how sure each label is, float32 (N, h, w) in [0, 1]; None where labels do not tell.
    """

    labels: Tensor
    refined: Tensor | None = None
    confidence: Tensor | None = None


class Supervision(Protocol):
    """Makes the targets of a step; it may look at the network's own scores, or call the network again."""

    @property
    def needs(self) -> frozenset[str]:
        """Names of the batch entries it reads beside ``labels``."""

    def __call__(self, batch: Batch, scores: Tensor, network: nn.Module, position: Position) -> Targets: ...
