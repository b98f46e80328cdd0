"""Class activation maps of the training images' tagged classes, and how good they are at every threshold."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tag2mask.base.text import percent
from tag2mask.data.layers import HeatMap, MapLayer
from tag2mask.data.resizing import resize_scores
from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment, SplitName
from tag2mask.engine.stage import Accumulator, Estimate, PerImageStage, ReduceStage
from tag2mask.engine.workspace import reading_arrays
from tag2mask.errors import SettingsError
from tag2mask.evaluation.pictures import plot_lines
from tag2mask.evaluation.segmentation import ThresholdCurve
from tag2mask.evidence.cam import merge_score_maps
from tag2mask.networks.backbones import check_backbone
from tag2mask.networks.inference import ScaleSettings, image_scales
from tag2mask.stages.labels import read_truth
from tag2mask.stages.train_classifier import TrainClassifier
from tag2mask.stages.views import load_image


@dataclass(frozen=True)
class ActivationMapSettings:
    """Settings of the class activation maps that are read off the classifier.

    Args:
        inference: scales and mirror.
        output_stride: of the classifier while maps are read, with the weights it was trained with at any other; 0 keeps
            the training's.
        rule: maps of all scales are summed ("sum", PSA and IRN) or their maximum taken ("max", Kim eq. 2.4).
        map_stride: pixels of the photograph per cell of the map that is kept.
    """

    inference: ScaleSettings = field(default_factory=lambda: ScaleSettings(long_side=512, scales=(0.5, 1.0, 1.5, 2.0)))
    output_stride: int = 0
    rule: Literal["sum", "max"] = "sum"
    map_stride: int = 4

    def __post_init__(self) -> None:
        if self.rule not in ("sum", "max"):
            raise SettingsError(f"cams.rule: '{self.rule}' is not one of sum, max")
        if self.output_stride < 0 or self.map_stride < 1:
            raise SettingsError("cams: output_stride must not be negative, map_stride must be above 0")


@dataclass(frozen=True)
class ActivationMaps:
    """CAMs of one image.

    Args:
        class_ids: the tagged classes, from 1 up.
        maps: float32 (P, h, w) in [0, 1], one per tagged class.
        size: (height, width) of the image.
    """

    class_ids: tuple[int, ...]
    maps: Tensor
    size: tuple[int, int]

    def at_size(self, size: tuple[int, int] | None = None) -> Tensor:
        """The maps at a size, the image's own by default: float32 (P, H, W)."""
        size = size or self.size
        if not self.class_ids:
            return torch.zeros((0, *size))
        return resize_scores(self.maps[None], size)[0]


class MakeActivationMaps(PerImageStage):
    """CAMs of the classes an image is tagged with: ``.npz`` with ``class_ids``, float16 ``maps`` and ``size``."""

    name = "cams"
    version = 2
    on_device = True
    suffix = ".npz"
    reads = frozenset({"images", "tags"})
    settings: ActivationMapSettings

    def __init__(self, classifier: TrainClassifier, settings: ActivationMapSettings, split: SplitName) -> None:
        super().__init__(settings, split, classifier=classifier)
        self.classifier = classifier
        # Told now, not after the classifier's training.
        if not classifier.settings.trunks:
            check_backbone(classifier.settings.backbone.name, self._stride())
        elif settings.output_stride:
            raise SettingsError("cams.output_stride: networks of classifier.trunks have their own; leave it 0")

    def _stride(self) -> int:
        return self.settings.output_stride or self.classifier.settings.backbone.output_stride

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        network = self.classifier.load(env, output_stride=None if self.classifier.settings.trunks else self._stride())
        settings, runtime = self.settings, env.runtime

        @torch.no_grad()
        def make(sample: Sample) -> bytes:
            image = load_image(sample)
            size = (image.shape[1], image.shape[2])
            coarse = (-(-size[0] // settings.map_stride), -(-size[1] // settings.map_stride))
            present = torch.tensor([tag - 1 for tag in sample.tags], dtype=torch.long)
            maps = torch.zeros((0, *coarse))
            if sample.tags:
                batches = image_scales(image, network.backbone, settings.inference, runtime.torch_device)
                with runtime.autocast():
                    scores = [network.score_maps(batch)[:, present] for batch in batches]
                maps = merge_score_maps(scores, coarse, settings.rule).cpu()
            content = io.BytesIO()
            np.savez_compressed(
                content,
                class_ids=np.array(sample.tags, dtype=np.int64),
                maps=maps.numpy().astype(np.float16),
                size=np.array(size, dtype=np.int64),
            )
            return content.getvalue()

        return make

    def load(self, env: Environment, image_id: str) -> ActivationMaps:
        """CAMs of one image.

        Raises:
            WorkspaceError: the file is missing or damaged.
        """
        with reading_arrays(self.path(env, image_id), self.folder(env)) as content:
            height, width = content["size"].tolist()
            maps = torch.from_numpy(content["maps"].astype(np.float32))
            return ActivationMaps(tuple(content["class_ids"].tolist()), maps, (height, width))

    def layers(self, env: Environment, image_id: str) -> dict[str, MapLayer]:
        """The largest of the tagged classes' maps and, where there are several, each by its class."""
        cams = self.load(env, image_id)
        maps = cams.maps.numpy()
        if not cams.class_ids:
            return {"": HeatMap(np.zeros(maps.shape[1:], np.float32))}
        shown: dict[str, MapLayer] = {"": HeatMap(maps.max(axis=0))}
        if len(cams.class_ids) > 1:
            shown |= {
                env.dataset.label_names[class_id]: HeatMap(map_)
                for class_id, map_ in zip(cams.class_ids, maps, strict=True)
            }
        return shown

    def estimate(self, env: Environment) -> Estimate:
        trunk = self.classifier.settings.trunk
        seconds = trunk.seconds(self.settings.inference, env, output_stride=self._stride())
        count = len(self.samples(env))
        return Estimate(seconds * count, 15e3 * count)


def activation_maps(
    classifier: TrainClassifier, settings: ActivationMapSettings, split: SplitName = "train"
) -> MakeActivationMaps:
    """CAMs of the images of a split."""
    return MakeActivationMaps(classifier, settings, split)


@dataclass(frozen=True)
class ThresholdCurveSettings:
    """Background thresholds that CAMs are scored at.

    Args:
        steps: number of thresholds, evenly spaced in (0, 1).
    """

    steps: int = 19

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise SettingsError(f"curve.steps: {self.steps} must be above 0")


class _Curve:
    def __init__(self, curve: ThresholdCurve, cams: MakeActivationMaps, env: Environment) -> None:
        self._curve, self._cams, self._env = curve, cams, env

    def add(self, sample: Sample) -> None:
        if sample.mask is None:
            return
        truth = read_truth(sample, self._env.dataset.num_classes)
        cams = self._cams.load(self._env, sample.id)
        self._curve.add(truth, cams.at_size((truth.shape[0], truth.shape[1])).numpy(), cams.class_ids)

    def merge(self, other: "_Curve") -> None:
        self._curve.merge(other._curve)

    def result(self) -> dict[str, Any]:
        points = self._curve.scores()
        best = max(points, key=lambda point: point[1])
        return {
            "curve": [{"threshold": threshold, "mean_iou": value} for threshold, value in points],
            "best_threshold": best[0],
            "best_mean_iou": best[1],
        }


class EvaluateActivationMaps(ReduceStage):
    """Mean IoU of thresholded CAMs against the true masks, at many thresholds: reported, never used."""

    name = "cam_curve"
    reads = frozenset({"masks"})
    settings: ThresholdCurveSettings

    def __init__(self, cams: MakeActivationMaps, settings: ThresholdCurveSettings) -> None:
        super().__init__(settings, cams.split, cams=cams)
        self.cams = cams

    def open(self, env: Environment) -> Callable[[], Accumulator]:
        names = ("background", *env.dataset.classes)
        thresholds = [(step + 1) / (self.settings.steps + 1) for step in range(self.settings.steps)]
        return lambda: _Curve(ThresholdCurve(names, thresholds), self.cams, env)

    def headline(self, env: Environment) -> str:
        figures = self.metrics(env)
        return (
            f"best mIoU {percent(figures['best_mean_iou'])} at threshold {figures['best_threshold']:.2f} "
            "(chosen on the truth: reported, not used)"
        )

    def details(self, env: Environment) -> list[str]:
        points = self.metrics(env)["curve"]
        return [f"mIoU at threshold {point['threshold']:.2f}: {percent(point['mean_iou'])}" for point in points]

    def notes(self, env: Environment) -> list[str]:
        best = self.metrics(env)["best_threshold"]
        return [f"The CAMs' best threshold, {best:.2f}, was chosen on the truth: it is reported, not used."]

    def draw(self, env: Environment, folder: Path) -> list[Path]:
        points = self.metrics(env)["curve"]
        line = [point["threshold"] for point in points], [100 * point["mean_iou"] for point in points]
        path = folder / "threshold_curve.png"
        title = f"CAMs against the true masks of {self.split}"
        plot_lines(path, {"CAM": line}, x="background threshold", y="mIoU, %", title=title)
        return [path]

    def estimate(self, env: Environment) -> Estimate:
        return Estimate(0.01 * len(self.samples(env)), 1e4)


def evaluate_activation_maps(cams: MakeActivationMaps) -> EvaluateActivationMaps:
    """The threshold curve of CAMs."""
    return EvaluateActivationMaps(cams, ThresholdCurveSettings())
