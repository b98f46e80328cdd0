"""Objectives: weighted sums of named losses."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from tag2mask.engine.system import Batch, Losses
from tag2mask.losses.balanced_seed import balanced_seed_loss
from tag2mask.losses.boundary import boundary_loss
from tag2mask.losses.cross_entropy import cross_entropy
from tag2mask.losses.expansion import check_decays, expansion_loss
from tag2mask.losses.seed import seed_loss
from tag2mask.supervision.targets import Targets

Term = Callable[[Batch, Tensor, Targets], tuple[Tensor, Tensor]]
"""A loss as (sum, count) of batch, the network's scores on the label grid and targets."""


_INSIDE = {"pixels": "inside"}
"""Settings of losses that are means over the photograph's pixels, not over those of the padding around it."""


class Objective:
    """Named losses with weights; two objectives add up.

    Args:
        terms: loss and weight by name.
        settings: what else a loss depends on, by its name; part of the `identity`.
        needs: names of the batch entries the losses read.

    Raises:
        ValueError: settings of a loss that is not there.
    """

    def __init__(
        self,
        terms: Mapping[str, tuple[Term, float]],
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        needs: Iterable[str] = (),
    ) -> None:
        self.terms = dict(terms)
        self.settings = {name: dict(values) for name, values in (settings or {}).items()}
        self.needs = frozenset(needs)
        unknown = self.settings.keys() - self.terms.keys()
        if unknown:
            raise ValueError(f"settings of a loss that is not there: {', '.join(sorted(unknown))}")

    def __add__(self, other: "Objective") -> "Objective":
        twice = self.terms.keys() & other.terms.keys()
        if twice:
            raise ValueError(f"both objectives have a loss named {', '.join(sorted(twice))}")
        return Objective({**self.terms, **other.terms}, {**self.settings, **other.settings}, self.needs | other.needs)

    def __mul__(self, factor: float) -> "Objective":
        terms = {name: (term, weight * factor) for name, (term, weight) in self.terms.items()}
        return Objective(terms, self.settings, self.needs)

    __rmul__ = __mul__

    @property
    def identity(self) -> dict[str, Any]:
        """Identity for fingerprints: weight by name, or [weight, settings] of a loss that has some."""
        return {
            name: [weight, self.settings[name]] if name in self.settings else weight
            for name, (_, weight) in self.terms.items()
        }

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


def seed_objective() -> Objective:
    """SEC's seed loss on the targets' labels."""
    return Objective({"seed": (lambda batch, scores, targets: seed_loss(scores, targets.labels), 1.0)})


def boundary_objective() -> Objective:
    """Boundary loss on the targets' refined probabilities, where the batch's ``inside`` says there is a photograph.

    Called with targets that have none, the objective raises ValueError.
    """

    def term(batch: Batch, scores: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        if targets.refined is None:
            raise ValueError("the boundary loss needs a supervision with a CRF: the targets have no refined scores")
        return boundary_loss(scores, targets.refined, batch["inside"])

    return Objective({"boundary": (term, 1.0)}, {"boundary": _INSIDE}, {"inside"})


def expansion_objective(
    *, present_decay: float = 0.996, background_decay: float = 0.999, absent_decay: float = 0.0
) -> Objective:
    """SEC's expansion loss on the batch's ``present``, bool (N, C + 1): the classes an image's tags name.

    The pixels ranked are those where the batch's ``inside``, bool (N, h, w), says there is a photograph.

    Args:
        present_decay: weights of the ranks of present classes are its powers.
        background_decay: the same of background.
        absent_decay: the same of the other classes; 0 takes their maximum.

    Raises:
        SettingsError: a decay is outside 0..1.
    """
    check_decays(present_decay, background_decay, absent_decay)
    decays = {"present_decay": present_decay, "background_decay": background_decay, "absent_decay": absent_decay}

    def term(batch: Batch, scores: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        return expansion_loss(scores, batch["present"], **decays, inside=batch["inside"])

    return Objective({"expansion": (term, 1.0)}, {"expansion": {**decays, **_INSIDE}}, {"present", "inside"})


OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "cross_entropy": cross_entropy_objective,
    "balanced_seed": balanced_seed_objective,
    "seed": seed_objective,
}
"""Objectives that need labels alone, by the name settings know them by."""
