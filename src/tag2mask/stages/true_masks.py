"""The true masks as training labels: for the supervised bound, and for nothing else."""

from collections.abc import Callable
from dataclasses import dataclass

from tag2mask.data.masks import encode_mask
from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment
from tag2mask.engine.stage import Estimate
from tag2mask.stages.labels import LabelStage, read_truth


@dataclass(frozen=True)
class TrueMaskSettings:
    """True masks need no settings."""


class TrueMasks(LabelStage):
    """A copy of the true mask of every training image."""

    name = "true_masks"
    reads = frozenset({"masks"})

    def __init__(self) -> None:
        super().__init__(TrueMaskSettings(), "train")

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        return lambda sample: encode_mask(read_truth(sample, env.dataset.num_classes))

    def estimate(self, env: Environment) -> Estimate:
        count = len(self.samples(env))
        return Estimate(0.005 * count, 3e3 * count)


def true_masks() -> TrueMasks:
    """The true masks of the training images."""
    return TrueMasks()
