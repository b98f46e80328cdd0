"""A method's product: the stages that make it, by what they are to a run."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from tag2mask.engine.environment import SplitName
from tag2mask.engine.graph import ordered
from tag2mask.engine.stage import PerImageStage, Stage
from tag2mask.engine.training import TrainingStage


@dataclass(frozen=True)
class Plan:
    """Stages that a method wants made, by the name each result goes by in reports.

    Args:
        model: the stage whose model file is the method's product.
        predictions: the stage that makes masks of val images with it.
        results: stages to make, in the order they are reported: evaluations, predictions; what they need is made first.
        pictures: per-image stages to show side by side, by split and column: {"train": {"CAM": stage}, "val": {}}.
        notes: what a reader of the results has to know, a sentence each: what could not be measured, and why.
        exports: further trained stages whose weights a run's folder gets, by the folder's name there.
    """

    model: TrainingStage
    predictions: PerImageStage
    results: dict[str, Stage]
    pictures: dict[SplitName, dict[str, PerImageStage]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    exports: dict[str, TrainingStage] = field(default_factory=dict)

    def learning(self) -> list[Stage]:
        """The stages that the model and its predictions are made of, each after its inputs: what has to see no mask."""
        return ordered([self.model, self.predictions])

    def stages(self) -> list[Stage]:
        """All stages, each after its inputs, each once."""
        return ordered(self._roots())

    def _roots(self) -> Iterator[Stage]:
        # Results first: what can be measured early is then measured early, before the next training begins.
        yield from self.results.values()
        yield self.predictions
        yield self.model
        yield from self.exports.values()
        # Last what is shown only: without true masks nothing else may need it.
        for columns in self.pictures.values():
            yield from columns.values()
