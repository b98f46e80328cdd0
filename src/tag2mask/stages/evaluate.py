"""Scoring masks against true masks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment
from tag2mask.engine.stage import Accumulator, Estimate, ReduceStage
from tag2mask.evaluation.segmentation import ConfusionMatrix
from tag2mask.evaluation.text import percent
from tag2mask.stages.labels import LabelStage, read_truth


@dataclass(frozen=True)
class EvaluationSettings:
    """Scoring needs no settings: one confusion matrix over the split, 255 in the truth left out."""


class _Confusion:
    def __init__(self, labels: LabelStage, env: Environment) -> None:
        self._matrix = ConfusionMatrix(("background", *env.dataset.classes))
        self._labels, self._env = labels, env
        self._images = 0

    def add(self, sample: Sample) -> None:
        if sample.mask is not None:
            truth = read_truth(sample, self._env.dataset.num_classes)
            self._matrix.add(truth, self._labels.load(self._env, sample.id))
            self._images += 1

    def merge(self, other: "_Confusion") -> None:
        self._matrix.merge(other._matrix)
        self._images += other._images

    def result(self) -> dict[str, Any]:
        return {**self._matrix.scores().to_dict(), "images": self._images}


class Evaluate(ReduceStage):
    """IoU, accuracy, precision and recall of masks against the true ones."""

    name = "evaluation"
    reads = frozenset({"masks"})

    def __init__(self, labels: LabelStage) -> None:
        super().__init__(EvaluationSettings(), labels.split, labels=labels)
        self.labels = labels

    def open(self, env: Environment) -> Callable[[], Accumulator]:
        return lambda: _Confusion(self.labels, env)

    def headline(self, env: Environment) -> str:
        figures = self.metrics(env)
        return (
            f"mIoU {percent(figures['mean_iou'])}, pixel accuracy {percent(figures['pixel_accuracy'])} "
            f"on {figures['images']} photographs of {self.split}{self.labels.how()}"
        )

    def details(self, env: Environment) -> list[str]:
        return [f"IoU of {name}: {percent(value)}" for name, value in self.metrics(env)["iou"].items()]

    def estimate(self, env: Environment) -> Estimate:
        return Estimate(0.005 * len(self.samples(env)), 1e4)


def evaluate_labels(labels: LabelStage) -> Evaluate:
    """Scores of the masks a stage made, on the split it made them for."""
    return Evaluate(labels)
