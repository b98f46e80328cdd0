"""Saliency as labels of background and objects, refined by class activation maps or as it is; and how good they are."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from tag2mask.base.text import percent, plural
from tag2mask.data.classes import UNLABELLED
from tag2mask.data.images import image_size
from tag2mask.data.layers import HeatMap, MapLayer
from tag2mask.data.masks import encode_mask
from tag2mask.data.resizing import resize_scores
from tag2mask.data.samples import BACKGROUND_NAME, Sample
from tag2mask.engine.environment import Environment
from tag2mask.engine.stage import Accumulator, Estimate, ReduceStage
from tag2mask.errors import SettingsError, unknown_choice
from tag2mask.evaluation.segmentation import ConfusionMatrix
from tag2mask.evidence.saliency import OBJECT, Low, refine_saliency
from tag2mask.stages.activation_maps import MakeActivationMaps
from tag2mask.stages.labels import LabelStage, read_truth
from tag2mask.stages.maps import MapStage
from tag2mask.stages.saliency_maps import UNKNOWN, TrueSaliency
from tag2mask.stages.saliency_used import saliency_source

_OBJECT_NAME = "object"


@dataclass(frozen=True)
class SaliencyLabelSettings:
    """Labels of background and objects from saliency (Kim, dissertation 2022, section 2.3.2).

    Args:
        threshold: saliency above it is object.
        refine: hold the labels against the CAMs; the rest takes part in that alone.
        foreground_above: what is not salient becomes object where the largest CAM is above it.
        background_below: what is salient changes where the largest CAM is below it.
        low: and becomes "unlabelled", "background", or stays: "keep".
    """

    threshold: float = 0.5
    refine: bool = True
    foreground_above: float = 0.8
    background_below: float = 0.3
    low: Low = "unlabelled"

    def __post_init__(self) -> None:
        for name in ("threshold", "foreground_above", "background_below"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"saliency_labels.{name}: {getattr(self, name)} must lie between 0 and 1")
        if self.low not in get_args(Low):
            raise SettingsError(unknown_choice("saliency_labels.low", self.low, get_args(Low)))


class RefinedSaliency(LabelStage):
    """0 background, 1 any object, 255 unlabelled, at the image's size: 1 is no class.

    What the ground truth leaves open is unlabelled where saliency is the ground truth.

    Args:
        saliency: maps in [0, 1].
        cams: the present classes' maps; None takes saliency as it is.
        settings: thresholds.
    """

    name = "refined_saliency"
    reads = frozenset({"images"})
    settings: SaliencyLabelSettings

    def __init__(self, saliency: MapStage, cams: MakeActivationMaps | None, settings: SaliencyLabelSettings) -> None:
        super().__init__(settings, saliency.split, saliency=saliency, **({"cams": cams} if cams else {}))
        self.saliency, self.cams = saliency, cams

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        settings = self.settings

        def make(sample: Sample) -> bytes:
            values = resize_scores(self.saliency.load(env, sample.id)[None, None], image_size(sample.image))[0, 0]
            salient = values > settings.threshold
            labels = salient.byte() * OBJECT
            if self.cams is not None:
                labels = refine_saliency(
                    self._any_object(env, sample),
                    salient,
                    foreground_above=settings.foreground_above,
                    background_below=settings.background_below,
                    low=settings.low,
                )
            if isinstance(self.saliency, TrueSaliency):
                labels[(values > 0) & (values < 1)] = UNLABELLED
            return encode_mask(labels.numpy())

        return make

    def _any_object(self, env: Environment, sample: Sample) -> Tensor:
        """The largest CAM at the image's size, B of eq. 2.5: 0 everywhere without a tag."""
        assert self.cams is not None
        cams = self.cams.load(env, sample.id)
        maps = cams.at_size()
        return maps.amax(0) if len(maps) else torch.zeros(cams.size)

    def layers(self, env: Environment, image_id: str) -> dict[str, MapLayer]:
        """In false colours, unlabelled half way up: in those of classes an object would be the first class."""
        labels = self.load(env, image_id)
        return {"": HeatMap(np.where(labels == UNLABELLED, np.float32(UNKNOWN), labels.astype(np.float32)))}

    def estimate(self, env: Environment) -> Estimate:
        count = len(self.samples(env))
        return Estimate(0.02 * count, 3e3 * count)


def saliency_labels(
    saliency: MapStage, cams: MakeActivationMaps | None, settings: SaliencyLabelSettings
) -> RefinedSaliency:
    """Labels of background and objects; CAMs are used where the settings refine.

    Raises:
        ValueError: the settings refine, and there are no CAMs.
    """
    if settings.refine and cams is None:
        raise ValueError("saliency is refined by CAMs, which are not given")
    return RefinedSaliency(saliency, cams if settings.refine else None, settings)


@dataclass(frozen=True)
class SaliencyEvaluationSettings:
    """Scoring needs no settings."""


class _Objects:
    def __init__(self, labels: RefinedSaliency, env: Environment) -> None:
        self._labels, self._env = labels, env
        self._matrix = ConfusionMatrix((BACKGROUND_NAME, _OBJECT_NAME))
        self._images = 0

    def add(self, sample: Sample) -> None:
        if sample.mask is None:
            return
        truth = read_truth(sample, self._env.dataset.num_classes)
        objects = np.where(truth == UNLABELLED, truth, np.minimum(truth, OBJECT))
        self._matrix.add(objects, self._labels.load(self._env, sample.id))
        self._images += 1

    def merge(self, other: "_Objects") -> None:
        self._matrix.merge(other._matrix)
        self._images += other._images

    def result(self) -> dict[str, Any]:
        return {**self._matrix.scores().to_dict(), "images": self._images}


class EvaluateSaliency(ReduceStage):
    """Labels of background and objects against the true masks, all classes being one: reported, never used."""

    name = "saliency_scores"
    reads = frozenset({"masks"})

    def __init__(self, labels: RefinedSaliency) -> None:
        super().__init__(SaliencyEvaluationSettings(), labels.split, labels=labels)
        self.labels = labels

    def open(self, env: Environment) -> Callable[[], Accumulator]:
        return lambda: _Objects(self.labels, env)

    def metrics(self, env: Environment) -> dict[str, Any]:
        return super().metrics(env) | {"saliency": saliency_source(self.labels)}

    def headline(self, env: Environment) -> str:
        figures = self.metrics(env)
        iou, precision, recall = (percent(figures[name][_OBJECT_NAME]) for name in ("iou", "precision", "recall"))
        return (
            f"objects of any class: IoU {iou}, precision {precision}, recall {recall} "
            f"with {percent(figures['labelled_share'])} % of the pixels labelled, "
            f"on {figures['images']} {plural(figures['images'], 'image')} of {self.split}{self.labels.how()}"
        )

    def estimate(self, env: Environment) -> Estimate:
        return Estimate(0.005 * len(self.samples(env)), 1e4)


def evaluate_saliency(labels: RefinedSaliency) -> EvaluateSaliency:
    """Scores of labels of background and objects against the true masks."""
    return EvaluateSaliency(labels)
