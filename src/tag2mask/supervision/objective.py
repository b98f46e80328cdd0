"""Objectives: weighted sums of named losses."""

from collections.abc import Callable, Mapping

from torch import Tensor

from tag2mask.engine.system import Batch, Losses
from tag2mask.losses.balanced_seed import balanced_seed_loss
from tag2mask.losses.cross_entropy import cross_entropy
from tag2mask.supervision.targets import Targets

Term = Callable[[Batch, Tensor, Targets], tuple[Tensor, Tensor]]
"""A loss as (sum, count) of batch, the network's scores on the label grid and targets."""


class Objective:
    """Named losses with weights; two objectives add up.

    Args:
        terms: loss and weight by name.
    """

    def __init__(self, terms: Mapping[str, tuple[Term, float]]) -> None:
        self.terms = dict(terms)

    def __add__(self, other: "Objective") -> "Objective":
        twice = self.terms.keys() & other.terms.keys()
        if twice:
            raise ValueError(f"both objectives have a loss named {', '.join(sorted(twice))}")
        return Objective({**self.terms, **other.terms})

    def __mul__(self, factor: float) -> "Objective":
        return Objective({name: (term, weight * factor) for name, (term, weight) in self.terms.items()})

    __rmul__ = __mul__

    def __call__(self, batch: Batch, scores: Tensor, targets: Targets) -> Losses:
        """Losses by name, weights included."""
        losses = {}
        for name, (term, weight) in self.terms.items():
            total, count = term(batch, scores, targets)
            losses[name] = (total * weight, count)
        return losses


def cross_entropy_objective() -> Objective:
    """Cross-entropy on the targets' labels."""
    return Objective({"cross_entropy": (lambda batch, scores, targets: cross_entropy(scores, targets.labels), 1.0)})


def balanced_seed_objective() -> Objective:
    """Balanced seed loss on the targets' labels."""
    return Objective(
        {"balanced_seed": (lambda batch, scores, targets: balanced_seed_loss(scores, targets.labels), 1.0)}
    )


OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "cross_entropy": cross_entropy_objective,
    "balanced_seed": balanced_seed_objective,
}
"""Objectives that need labels alone, by the name settings know them by."""
