"""Scoring masks against true masks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tag2mask.base.text import percent, plural
from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment
from tag2mask.engine.stage import Accumulator, Estimate, ReduceStage
from tag2mask.evaluation.segmentation import ConfusionMatrix
from tag2mask.stages.labels import LabelStage, read_truth
from tag2mask.stages.saliency_used import saliency_source

_CONFUSION, _PER_IMAGE = "confusion", "per_image"


@dataclass(frozen=True)
class EvaluationSettings:
    """Scoring needs no settings: one confusion matrix over the split, 255 in the truth left out."""


class _Confusion:
    def __init__(self, labels: LabelStage, env: Environment) -> None:
        self._matrix = ConfusionMatrix(("background", *env.dataset.classes))
        self._labels, self._env = labels, env
        self._per_image: dict[str, float | None] = {}

    def add(self, sample: Sample) -> None:
        if sample.mask is None:
            return
        truth = read_truth(sample, self._env.dataset.num_classes)
        alone = ConfusionMatrix(self._matrix.classes)
        alone.add(truth, self._labels.load(self._env, sample.id))
        self._per_image[sample.id] = alone.scores().mean_iou if alone.counts.any() else None
        self._matrix.merge(alone)

    def merge(self, other: "_Confusion") -> None:
        self._matrix.merge(other._matrix)
        self._per_image |= other._per_image

    def result(self) -> dict[str, Any]:
        return {
            **self._matrix.scores().to_dict(),
            "images": len(self._per_image),
            _CONFUSION: self._matrix.counts.tolist(),
            _PER_IMAGE: self._per_image,
        }


class Evaluate(ReduceStage):
    """IoU, accuracy, precision and recall of masks against the true ones, in all and image by image."""

    name = "evaluation"
    version = 2
    reads = frozenset({"masks"})

    def __init__(self, labels: LabelStage) -> None:
        super().__init__(EvaluationSettings(), labels.split, labels=labels)
        self.labels = labels

    def open(self, env: Environment) -> Callable[[], Accumulator]:
        return lambda: _Confusion(self.labels, env)

    def metrics(self, env: Environment) -> dict[str, Any]:
        figures = {name: value for name, value in super().metrics(env).items() if name not in (_CONFUSION, _PER_IMAGE)}
        return figures | {"saliency": saliency_source(self.labels)}

    def confusion(self, env: Environment) -> list[list[int]]:
        """Pixel counts of a complete stage, K rows of K + 1: true class, predicted class and last unlabelled."""
        counts: list[list[int]] = super().metrics(env)[_CONFUSION]
        return counts

    def per_image(self, env: Environment) -> dict[str, float | None]:
        """Mean IoU within each image that has a true mask, by id, in the order of the split.

        The mean is over the classes that are in the truth or the prediction of that image. None: no pixel of its mask
        is labelled.
        """
        scores: dict[str, float | None] = super().metrics(env)[_PER_IMAGE]
        return scores

    def headline(self, env: Environment) -> str:
        figures = self.metrics(env)
        share, labelled = figures.get("labelled_share"), ""
        # Of sparse labels pixel accuracy says little: what they leave unlabelled counts as wrong in it.
        if share is not None and share < 1:
            right = percent(figures["labelled_precision"])
            labelled = f" with {percent(share)} % of the pixels labelled, {right} % of these right,"
        return (
            f"mIoU {percent(figures['mean_iou'])}, pixel accuracy {percent(figures['pixel_accuracy'])}{labelled} "
            f"on {figures['images']} {plural(figures['images'], 'image')} of {self.split}{self.labels.how()}"
        )

    def details(self, env: Environment) -> list[str]:
        return [f"IoU of {name}: {percent(value)}" for name, value in self.metrics(env)["iou"].items()]

    def estimate(self, env: Environment) -> Estimate:
        return Estimate(0.005 * len(self.samples(env)), 1e4)


def evaluate_labels(labels: LabelStage) -> Evaluate:
    """Scores of the masks a stage made, on the split it made them for."""
    return Evaluate(labels)
