"""Class patterns: mean and first components of a classifier's features over the images of each class (DCP)."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from tag2mask.base.files import write_bytes, write_json
from tag2mask.base.text import percent, plural
from tag2mask.data.resizing import resize_scores
from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment
from tag2mask.engine.seeding import generator
from tag2mask.engine.stage import Estimate, Stage, map_in_order
from tag2mask.engine.workspace import reading_artifact
from tag2mask.errors import SettingsError
from tag2mask.evidence.class_pattern import orient, principal_components, project
from tag2mask.evidence.class_statistics import ClassStatistics
from tag2mask.networks.inference import ScaleSettings, image_scales
from tag2mask.stages.activation_maps import MakeActivationMaps
from tag2mask.stages.timing import seconds_per_image
from tag2mask.stages.train_classifier import TrainClassifier
from tag2mask.stages.views import load_image

KEPT = 2
"""Components that are kept of each class: the pattern and, for pictures of the plane they span, the next."""

WEAK = 0.1
"""Correlation with the CAM below which the sign of a pattern is told as weakly founded."""

_FILE, _RESULT = "patterns.safetensors", "result.json"


@dataclass(frozen=True)
class FeatureSettings:
    """Settings of the features that class patterns are taken from: of which images, and at what size.

    Args:
        photographs_per_class: at most so many photographs of each class, drawn at random (Luo & Yang: 800 on VOC, 2000
            on COCO); 0 takes all.
        long_side: of the photograph as the classifier is shown it, whole and unpadded, in pixels; 0 takes its own.
        output_stride: of the classifier while features are read, with the weights it was trained with at any other; 0
            keeps the training's.
        components: number of components whose shares of the variance are reported.
    """

    photographs_per_class: int = 800
    long_side: int = 320
    output_stride: int = 0
    components: int = 50

    def __post_init__(self) -> None:
        for name in ("photographs_per_class", "long_side", "output_stride"):
            if getattr(self, name) < 0:
                raise SettingsError(f"patterns.{name}: {getattr(self, name)} must not be negative")
        if self.components < KEPT:
            raise SettingsError(f"patterns.components: {self.components} must be {KEPT} or more")

    @property
    def scales(self) -> ScaleSettings:
        """The one size an image is shown in."""
        return ScaleSettings(long_side=self.long_side, mirror=False)


@dataclass(frozen=True)
class PatternSettings(FeatureSettings):
    """Class patterns at one block of the classifier's backbone or at several, of one pass over the images.

    Args:
        blocks: names of the blocks, each once.
    """

    blocks: tuple[str, ...] = ("blocks.5",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.blocks or len(set(self.blocks)) < len(self.blocks):
            raise SettingsError(f"patterns.blocks: {list(self.blocks)} must be one or more blocks, each once")


@dataclass(frozen=True)
class BlockPatterns:
    """Patterns at one block.

    Args:
        means: t of each foreground class, float64 (C, d).
        components: unit vectors, float64 (C, 2, d); the first, xi, is positive on the class, the second's entry of the
            largest magnitude is positive.
    """

    means: Tensor
    components: Tensor


@dataclass(frozen=True)
class Patterns:
    """Class patterns of all classes.

    Args:
        blocks: by the block's name.
        seen: whether there were images of a class, bool (C,); rows of the others are 0.
    """

    blocks: dict[str, BlockPatterns]
    seen: Tensor

    def has(self, class_id: int) -> bool:
        """True if a class, from 1 up, has a pattern."""
        return bool(self.seen[class_id - 1])

    def project(self, block: str, features: Tensor, class_id: int) -> Tensor:
        """q = (t_u - t_c)^T xi_c of a class, from 1 up: features (..., d) -> float32 (...)."""
        return self._projected(block, features, class_id, 0)

    def plane(self, block: str, features: Tensor, class_id: int) -> Tensor:
        """q beside the same on the second component: features (..., d) -> float32 (..., 2)."""
        return torch.stack([self._projected(block, features, class_id, index) for index in range(KEPT)], -1)

    def _projected(self, block: str, features: Tensor, class_id: int, index: int) -> Tensor:
        found = self.blocks[block]
        return project(features, found.means[class_id - 1], found.components[class_id - 1, index])


class ClassPatterns(Stage):
    """Means, first components and shares of variance of every class, in one pass over the images.

    An artifact has ``patterns.safetensors`` (`Patterns`) and ``result.json``, the figures of `metrics`. Images are read
    by several threads and counted one after the other in a fixed order, so that no more than the statistics themselves
    and the features of a few images are ever in memory.
    """

    name = "class_patterns"
    on_device = True
    reads = frozenset({"images", "tags"})
    settings: PatternSettings

    def __init__(self, classifier: TrainClassifier, cams: MakeActivationMaps, settings: PatternSettings) -> None:
        super().__init__(settings, "train", classifier=classifier, cams=cams)
        self.classifier, self.cams = classifier, cams
        # A misspelt block or an impossible stride is told now, not after the classifier's training.
        facts = dataclasses.replace(classifier.backbone, output_stride=self.output_stride).facts
        self._channels = {block: facts.channels_of(block) for block in settings.blocks}

    @property
    def output_stride(self) -> int:
        """The one features are read at."""
        return self.settings.output_stride or self.classifier.backbone.output_stride

    def open(self, env: Environment, blocks: tuple[str, ...] | None = None) -> Callable[[Sample], list[Tensor]]:
        """The function that reads the classifier's features of an image, shown whole and unpadded.

        Args:
            env: has the trained classifier.
            blocks: some of the settings' blocks; None takes all.

        Returns:
            image -> float32 (h, w, d) at each block, on the environment's device.
        """
        network, runtime = self.classifier.load(env, output_stride=self.output_stride), env.runtime

        @torch.no_grad()
        def read(sample: Sample) -> list[Tensor]:
            (image,) = image_scales(load_image(sample), network.backbone, self.settings.scales, runtime.torch_device)
            with runtime.autocast():
                found = network.backbone.features_at(image, blocks or self.settings.blocks)
            return [features[0].permute(1, 2, 0).float() for features in found]

        return read

    def open_plane(self, env: Environment, block: str) -> Callable[[Sample, int], Tensor]:
        """The function that projects an image's cells on a class's first two components.

        Returns:
            image and class id -> float32 (h, w, 2) on the CPU; the first of the two is q.
        """
        read, patterns = self.open(env, (block,)), self.load(env)
        return lambda sample, class_id: patterns.plane(block, read(sample)[0], class_id).cpu()

    def drawn(self, env: Environment) -> dict[int, set[str]]:
        """Ids of the images that each class is taken from, by class id; all of a class where there are few."""
        most = self.settings.photographs_per_class
        chosen = {}
        for class_id in range(1, len(env.dataset.classes) + 1):
            ids = sorted(sample.id for sample in self.samples(env) if class_id in sample.tags)
            if most and len(ids) > most:
                ids = generator(env.runtime.seed, "pattern", class_id).choice(ids, most, replace=False).tolist()
            chosen[class_id] = set(ids)
        return chosen

    def produce(self, env: Environment) -> None:
        drawn = self.drawn(env)
        samples = [sample for sample in self.samples(env) if any(sample.id in drawn[tag] for tag in sample.tags)]
        statistics = self._count(env, samples, drawn)
        names = env.dataset.classes
        tensors = {"seen": torch.tensor([bool(drawn[class_id]) for class_id in drawn])}
        figures: dict[str, dict[str, Any]] = {}
        with env.reporter.task(f"{self.name}: components", len(statistics) * len(names)) as task:
            for block, counted in statistics.items():
                means = torch.zeros(len(names), counted.dimensions, dtype=torch.float64)
                components = torch.zeros(len(names), KEPT, counted.dimensions, dtype=torch.float64)
                figures[block] = {}
                for index, name in enumerate(names):
                    class_id = index + 1
                    found = {"photographs": len(drawn[class_id]), "pixels": counted.count(class_id)}
                    if found["pixels"]:
                        means[index] = counted.mean(class_id)
                        components[index], told = self._components(counted, class_id)
                        found |= told
                    figures[block][name] = found
                    task.advance()
                tensors |= {f"mean.{block}": means, f"component.{block}": components}
        write_bytes(self.folder(env) / _FILE, safetensors.torch.save(tensors))
        write_json(self.folder(env) / _RESULT, {"blocks": figures})

    def _count(self, env: Environment, samples: list[Sample], drawn: dict[int, set[str]]) -> dict[str, ClassStatistics]:
        """Statistics at every block of the drawn images."""
        read, device = self.open(env), env.runtime.torch_device
        ids = 1 + len(env.dataset.classes)
        statistics = {block: ClassStatistics(ids, width, device=device) for block, width in self._channels.items()}

        def photograph(sample: Sample) -> tuple[Sample, list[Tensor]]:
            return sample, read(sample)

        with env.reporter.task(f"{self.name} ({self.split})", len(samples)) as task:
            for sample, found in map_in_order(photograph, samples, self.at_a_time(env)):
                cams = self.cams.load(env, sample.id)
                kept = [index for index, tag in enumerate(cams.class_ids) if sample.id in drawn[tag]]
                class_ids = [cams.class_ids[index] for index in kept]
                for counted, features in zip(statistics.values(), found, strict=True):
                    heights = resize_scores(cams.maps[None, kept], (features.shape[0], features.shape[1]))[0]
                    counted.add(features.flatten(0, 1), class_ids, heights.flatten(1))
                task.advance()
        return statistics

    def _components(self, counted: ClassStatistics, class_id: int) -> tuple[Tensor, dict[str, Any]]:
        """The first components of a class, float64 (2, d), the first oriented by the CAM, and their figures."""
        covariance = counted.covariance(class_id)
        variances, vectors = principal_components(covariance, min(self.settings.components, counted.dimensions))
        first = orient(vectors[0], counted.cam_covariance(class_id))
        # Nothing says which side of the second is which.
        second = orient(vectors[1], torch.zeros_like(vectors[1]))
        whole = float(covariance.trace())
        told = {
            "shares": (variances / whole).tolist() if whole else [0.0] * len(variances),
            "cam_correlation": counted.cam_correlation(class_id, first),
        }
        return torch.stack([first, second]).cpu(), told

    def load(self, env: Environment) -> Patterns:
        """The patterns, on the CPU.

        Raises:
            WorkspaceError: the file is missing or damaged.
        """
        path = self.folder(env) / _FILE
        with reading_artifact(path, path.parent):
            tensors = safetensors.torch.load(path.read_bytes())
            blocks = {
                block: BlockPatterns(tensors[f"mean.{block}"], tensors[f"component.{block}"])
                for block in self.settings.blocks
            }
            return Patterns(blocks, tensors["seen"])

    def metrics(self, env: Environment) -> dict[str, Any]:
        """Figures by block and class.

        Returns:
            ``{"blocks": {block: {class: {"photographs", "pixels", "shares", "cam_correlation"}}}}``; "shares" are the
            first components' shares of the variance, largest first, and "cam_correlation", 0 to 1, is that of q with
            the class's CAM, which decided the sign. A class without images lacks both.
        """
        path = self.folder(env) / _RESULT
        with reading_artifact(path, path.parent):
            loaded: dict[str, Any] = json.loads(path.read_text())
        return loaded

    def headline(self, env: Environment) -> str:
        told = []
        for block, classes in self.metrics(env)["blocks"].items():
            found = [figures for figures in classes.values() if figures["pixels"]]
            if found:
                first, second = np.mean([figures["shares"][:KEPT] for figures in found], axis=0)
                told.append(
                    f"{block}: {percent(first)} % of the variance along the first component, {percent(second)} % along "
                    f"the second, on average over {len(found)} {plural(len(found), 'class', 'classes')}"
                )
        return "; ".join(told)

    def details(self, env: Environment) -> list[str]:
        return [
            f"{block}, {name}: {percent(figures['shares'][0])} % of the variance along the first component, "
            f"correlation with the CAM {figures['cam_correlation']:.2f}, "
            f"{figures['photographs']} {plural(figures['photographs'], 'image')}"
            for block, classes in self.metrics(env)["blocks"].items()
            for name, figures in classes.items()
            if figures["pixels"]
        ]

    def notes(self, env: Environment) -> list[str]:
        blocks, notes = self.metrics(env)["blocks"], []
        for block, classes in blocks.items():
            weak = [name for name, found in classes.items() if found["pixels"] and found["cam_correlation"] < WEAK]
            if weak:
                notes.append(
                    f"At {block} the class {plural(len(weak), 'pattern')} of {', '.join(weak)} hardly "
                    f"{plural(len(weak), 'follows', 'follow')} the CAM (correlation below {WEAK}): which side is "
                    "foreground is uncertain."
                )
        # The images are the same at every block.
        missing = [name for name, found in next(iter(blocks.values())).items() if not found["pixels"]]
        if missing:
            notes.append(f"No class pattern of {', '.join(missing)}: no training image has the tag.")
        return notes

    def estimate(self, env: Environment) -> Estimate:
        backbone = self.classifier.backbone
        seconds = seconds_per_image(backbone, self.settings.scales, env, output_stride=self.output_stride)
        drawn: set[str] = set().union(*self.drawn(env).values())
        # Products and eigenvectors take less than the network.
        numbers = (1 + KEPT) * sum(self._channels.values()) * len(env.dataset.classes)
        return Estimate(seconds * len(drawn), 8.0 * numbers)


def class_patterns(classifier: TrainClassifier, cams: MakeActivationMaps, settings: PatternSettings) -> ClassPatterns:
    """Class patterns of the training images; CAMs decide their signs alone."""
    return ClassPatterns(classifier, cams, settings)
