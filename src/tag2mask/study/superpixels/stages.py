"""The study's stages: every contender's superpixels of every image, their scores, thresholds, object pixels."""

import io
import json
import math
import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tag2mask.base.files import write_json
from tag2mask.data.classes import BACKGROUND, UNLABELLED
from tag2mask.data.images import read_image
from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment
from tag2mask.engine.stage import Accumulator, Estimate, PerImageStage, ReduceStage, Stage, map_in_order
from tag2mask.engine.workspace import reading_arrays, reading_artifact
from tag2mask.evaluation.pictures import evenly_spread
from tag2mask.evaluation.superpixels import SuperpixelMeans
from tag2mask.evidence.classic_superpixels import ClassicAlgorithm, classic_superpixels
from tag2mask.evidence.normalised_cut import normalised_cut_superpixels
from tag2mask.evidence.superpixel import discover_superpixels, label_superpixels
from tag2mask.stages.crf import CRFSettings
from tag2mask.stages.labels import read_truth
from tag2mask.stages.views import load_image
from tag2mask.study.superpixels.features import open_features
from tag2mask.study.superpixels.settings import FeatureSet

Maps = dict[str, npt.NDArray[np.int32]]
"""Label maps (H, W) of one image, by the parameter that they differ in."""

Rule = Literal["lowest", "highest", "ncut"]
"""Rule of finding superpixels in features: seeds of the lowest or the highest degree first, or normalised cuts."""

BOUNDARY_RULES = {"labelled": False, "with_unlabelled": True}
"""Name of a rule for the truth's boundaries -> `unlabelled_borders` of `score_superpixels`."""

MATCHED = "matched"
"""Name of the only map of a contender whose threshold was searched."""

_SEARCH_STEPS = 14  # halvings of a right angle: to less than a hundredth of a degree


def _patches(features: Tensor) -> Tensor:
    """Features (d, rows, columns) as vectors, (patches, d)."""
    return features.flatten(1).mT


def _spread(samples: tuple[Sample, ...], photographs: int) -> tuple[Sample, ...]:
    """So many of the samples, evenly spread; all for 0."""
    return tuple(samples[index] for index in evenly_spread(photographs or len(samples), len(samples)))


class SuperpixelMaps(PerImageStage):
    """Label maps of one contender at all values of its parameter: compressed ``.npz``, uint16 (H, W) each."""

    suffix = ".npz"
    reads = frozenset({"images"})

    def samples(self, env: Environment) -> tuple[Sample, ...]:
        return _spread(super().samples(env), self.settings.photographs)

    @abstractmethod
    def parameters(self) -> tuple[str, ...]:
        """Names of the maps."""

    @abstractmethod
    def open_maps(self, env: Environment) -> Callable[[Sample], Maps]:
        """Loads what all images need and returns the function of one."""

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        compute = self.open_maps(env)

        def make(sample: Sample) -> bytes:
            content = io.BytesIO()
            small: dict[str, Any] = {key: labels.astype(np.uint16) for key, labels in compute(sample).items()}
            np.savez_compressed(content, **small)
            return content.getvalue()

        return make

    def load(self, env: Environment, image_id: str) -> Maps:
        """The maps of one image.

        Raises:
            WorkspaceError: the file is missing or damaged.
        """
        with reading_arrays(self.path(env, image_id), self.folder(env)) as content:
            return {key: content[key].astype(np.int32) for key in self.parameters()}

    def estimate(self, env: Environment) -> Estimate:
        """From the first image."""
        samples, make = self.samples(env), self.open(env)
        start = time.perf_counter()
        size = len(make(samples[0]))
        seconds = time.perf_counter() - start
        return Estimate(seconds * len(samples) / self.at_a_time(env), size * len(samples))


@dataclass(frozen=True)
class FeatureSuperpixelSettings:
    """Superpixels found in features of patches and brought to pixels.

    Args:
        features: where patches are compared.
        rule: how superpixels are found.
        taus: thresholds; empty takes the one that was searched.
        confidence: see `tag2mask.stages.superpixel.superpixels.SuperpixelSettings`.
        crf: likewise.
        max_pixels: likewise.
        photographs: how many, evenly spread; 0 for all.
    """

    features: FeatureSet
    rule: Rule
    taus: tuple[float, ...]
    confidence: float
    crf: CRFSettings
    max_pixels: int
    photographs: int = 0


class FeatureSuperpixels(SuperpixelMaps):
    """Superpixels discovered in features, at several thresholds or at the one that a search found."""

    name = "study_superpixels"
    on_device = True
    settings: FeatureSuperpixelSettings

    def __init__(self, settings: FeatureSuperpixelSettings, match: "MatchThreshold | None" = None) -> None:
        super().__init__(settings, "train", **({"match": match} if match is not None else {}))
        self.match = match

    def identity(self, env: Environment) -> str:
        return self.settings.features.identity

    def parameters(self) -> tuple[str, ...]:
        return (MATCHED,) if self.match is not None else tuple(f"{tau:g}" for tau in self.settings.taus)

    def open_maps(self, env: Environment) -> Callable[[Sample], Maps]:
        settings = self.settings
        extract = open_features(settings.features, env.runtime)
        taus = settings.taus if self.match is None else (self.match.metrics(env)["tau"],)

        def compute(sample: Sample) -> Maps:
            image = load_image(sample)
            features = extract(image)
            pixels = image.permute(1, 2, 0).contiguous().numpy()
            maps: Maps = {}
            for key, tau in zip(self.parameters(), taus, strict=True):
                maps[key] = label_superpixels(
                    pixels,
                    _partition(_patches(features), settings.rule, tau).reshape(features.shape[1:]),
                    confidence=settings.confidence,
                    max_pixels=settings.max_pixels,
                    **settings.crf.kernels((image.shape[1], image.shape[2])),
                )
            return maps

        return compute


def _partition(features: Tensor, rule: Rule, tau: float) -> npt.NDArray[np.int32]:
    """Superpixels of patches (N, d), int32 (N,)."""
    if rule == "ncut":
        return normalised_cut_superpixels(features.float().cpu().numpy(), tau)
    return discover_superpixels(features, tau, highest_first=rule == "highest").cpu().numpy()


@dataclass(frozen=True)
class ClassicSuperpixelSettings:
    """Superpixels of colour and position.

    Args:
        algorithm: SLIC, SEEDS or LSC.
        amounts: sides in pixels for SLIC and LSC, numbers for SEEDS.
        iterations: of the algorithm.
        reference_side: long side of the photographs that sides are meant for; 0 takes them as they are.
        photographs: how many, evenly spread; 0 for all.
    """

    algorithm: ClassicAlgorithm
    amounts: tuple[int, ...]
    iterations: int
    reference_side: int
    photographs: int = 0


class ClassicSuperpixels(SuperpixelMaps):
    """Superpixels by OpenCV at several sizes."""

    name = "classic_superpixels"
    settings: ClassicSuperpixelSettings

    def __init__(self, settings: ClassicSuperpixelSettings) -> None:
        super().__init__(settings, "train")

    def parameters(self) -> tuple[str, ...]:
        return tuple(str(amount) for amount in self.settings.amounts)

    def produce(self, env: Environment) -> None:
        import cv2

        # LSC's answer depends on how many threads share an image, and images have a thread each already.
        own = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            super().produce(env)
        finally:
            cv2.setNumThreads(own)

    def open_maps(self, env: Environment) -> Callable[[Sample], Maps]:
        settings = self.settings

        def compute(sample: Sample) -> Maps:
            image = read_image(sample.image)
            scaled = settings.reference_side and settings.algorithm != "SEEDS"
            factor = max(image.shape[:2]) / settings.reference_side if scaled else 1
            return {
                key: classic_superpixels(
                    image, settings.algorithm, max(1, round(amount * factor)), iterations=settings.iterations
                )
                for key, amount in zip(self.parameters(), settings.amounts, strict=True)
            }

        return compute


@dataclass(frozen=True)
class MatchSettings:
    """A search for the threshold that gives as many superpixels as another contender has.

    Args:
        features: whose threshold is searched, seeds of the lowest degree first.
        target: the other's features.
        target_tau: the other's threshold.
        photographs: how many are looked at, evenly spread.
    """

    features: FeatureSet
    target: FeatureSet
    target_tau: float
    photographs: int


class MatchThreshold(Stage):
    """The threshold at which the mean number of superpixels of patches comes closest to another contender's.

    The threshold is the cosine of an angle, which is halved: in some features all angles are tiny.
    """

    name = "matched_threshold"
    reads = frozenset({"images"})
    on_device = True
    settings: MatchSettings

    def __init__(self, settings: MatchSettings) -> None:
        super().__init__(settings, "train")

    def samples(self, env: Environment) -> tuple[Sample, ...]:
        return _spread(super().samples(env), self.settings.photographs)

    def identity(self, env: Environment) -> list[str]:
        return [self.settings.features.identity, self.settings.target.identity]

    def produce(self, env: Environment) -> None:
        samples = self.samples(env)
        own, target = (open_features(which, env.runtime) for which in (self.settings.features, self.settings.target))

        def look(sample: Sample) -> tuple[Tensor, int]:
            image = load_image(sample)
            return _patches(own(image)), _count(_patches(target(image)), self.settings.target_tau)

        with env.reporter.task(f"{self.name} ({self.split})", len(samples) + _SEARCH_STEPS) as task:
            seen: list[tuple[Tensor, int]] = []
            for found in map_in_order(look, samples, self.at_a_time(env)):
                seen.append(found)
                task.advance()
            wanted = sum(count for _, count in seen) / len(seen)
            tau, superpixels = _closest_threshold([features for features, _ in seen], wanted, task.advance)
        write_json(
            self.folder(env) / "result.json",
            {"tau": tau, "superpixels": superpixels, "wanted": wanted, "photographs": len(samples)},
        )

    def metrics(self, env: Environment) -> dict[str, Any]:
        path = self.folder(env) / "result.json"
        with reading_artifact(path, path.parent):
            loaded: dict[str, Any] = json.loads(path.read_text())
        return loaded

    def headline(self, env: Environment) -> str:
        found = self.metrics(env)
        return f"tau {found['tau']:.4f} for {found['superpixels']:.1f} of {found['wanted']:.1f} superpixels"

    def estimate(self, env: Environment) -> Estimate:
        return Estimate(3.0 * len(self.samples(env)) / self.at_a_time(env), 1e3)


def _count(features: Tensor, tau: float) -> int:
    return int(discover_superpixels(features, tau).max()) + 1


def _closest_threshold(features: list[Tensor], wanted: float, advance: Callable[[], None]) -> tuple[float, float]:
    """The threshold whose mean number of superpixels is closest to the one wanted, and that number.

    Args:
        features: of each image, (patches, d).
        wanted: mean number of superpixels.
        advance: called after each of the steps.
    """
    fewer, more = math.pi / 2, 0.0  # angles: the smaller, the more superpixels
    tried: list[tuple[float, float, float]] = []
    for _ in range(_SEARCH_STEPS):
        angle = (fewer + more) / 2
        tau = math.cos(angle)
        count = sum(_count(each, tau) for each in features) / len(features)
        tried.append((abs(count - wanted), tau, count))
        fewer, more = (angle, more) if count < wanted else (fewer, angle)
        advance()
    _, tau, count = min(tried)
    return tau, count


@dataclass(frozen=True)
class ScoreSettings:
    """Choice of the images that are averaged.

    Args:
        photographs: how many, evenly spread; 0 for all.
    """

    photographs: int = 0


class _Means:
    def __init__(self, maps: SuperpixelMaps, env: Environment) -> None:
        self._maps, self._env = maps, env
        self._means = {(key, rule): SuperpixelMeans() for key in maps.parameters() for rule in BOUNDARY_RULES}

    def add(self, sample: Sample) -> None:
        truth = read_truth(sample, self._env.dataset.num_classes)
        for key, labels in self._maps.load(self._env, sample.id).items():
            for rule, unlabelled_borders in BOUNDARY_RULES.items():
                self._means[key, rule].add(labels, truth, unlabelled_borders=unlabelled_borders)

    def merge(self, other: "_Means") -> None:
        for which, means in self._means.items():
            means.merge(other._means[which])

    def result(self) -> dict[str, Any]:
        return {
            "photographs": max(len(means.images) for means in self._means.values()),
            "scores": {
                key: {rule: self._means[key, rule].scores().to_dict() for rule in BOUNDARY_RULES}
                for key in self._maps.parameters()
            },
        }


class ScoreSuperpixels(ReduceStage):
    """Mean scores of a contender's maps against the true masks, by both rules for boundaries."""

    name = "superpixel_scores"
    reads = frozenset({"masks"})
    settings: ScoreSettings

    def __init__(self, maps: SuperpixelMaps, settings: ScoreSettings) -> None:
        super().__init__(settings, "train", maps=maps)
        self.maps = maps

    def samples(self, env: Environment) -> tuple[Sample, ...]:
        return _spread(super().samples(env), self.settings.photographs)

    def open(self, env: Environment) -> Callable[[], Accumulator]:
        return lambda: _Means(self.maps, env)

    def estimate(self, env: Environment) -> Estimate:
        return Estimate(0.01 * len(self.maps.parameters()) * len(self.samples(env)) / env.runtime.threads, 1e4)


@dataclass(frozen=True)
class PositivenessSettings:
    """Figure 3.14.

    Args:
        features: where patches are compared.
        photographs: how many, evenly spread.
    """

    features: FeatureSet
    photographs: int


class Positiveness(PerImageStage):
    """Shares of an object's patches that are similar, and not similar, to each of its patches (Kim, figure 3.14).

    An object is all patches of one class of the truth. ``.npz`` with ``positive`` and ``negative``, float32 (rows,
    columns), 0 outside objects.
    """

    name = "positiveness"
    suffix = ".npz"
    reads = frozenset({"images", "masks"})
    on_device = True
    settings: PositivenessSettings

    def __init__(self, settings: PositivenessSettings) -> None:
        super().__init__(settings, "train")

    def samples(self, env: Environment) -> tuple[Sample, ...]:
        return _spread(super().samples(env), self.settings.photographs)

    def identity(self, env: Environment) -> str:
        return self.settings.features.identity

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        extract = open_features(self.settings.features, env.runtime)

        def make(sample: Sample) -> bytes:
            features = extract(load_image(sample))
            truth = torch.from_numpy(read_truth(sample, env.dataset.num_classes))
            positive, negative = object_similarity(features, truth)
            content = io.BytesIO()
            np.savez_compressed(content, positive=positive.cpu().numpy(), negative=negative.cpu().numpy())
            return content.getvalue()

        return make

    def load(self, env: Environment, image_id: str) -> dict[str, npt.NDArray[np.float32]]:
        """The maps ``positive`` and ``negative`` of one image.

        Raises:
            WorkspaceError: the file is missing or damaged.
        """
        with reading_arrays(self.path(env, image_id), self.folder(env)) as content:
            return {key: content[key] for key in ("positive", "negative")}

    def estimate(self, env: Environment) -> Estimate:
        return Estimate(2.0 * len(self.samples(env)) / self.at_a_time(env), 1e4 * len(self.samples(env)))


def object_similarity(features: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """For every patch of an object the shares of the object's patches with a positive and with another similarity.

    Args:
        features: (d, rows, columns).
        truth: class ids (H, W), 255 where unknown; a patch has the class of the pixel in its middle.

    Returns:
        two maps, float32 (rows, columns); 0 on background and unknown patches.
    """
    rows, columns = features.shape[1:]
    ys, xs = (
        ((torch.arange(cells) + 0.5) * side / cells).long()
        for cells, side in zip((rows, columns), truth.shape, strict=True)
    )
    classes = truth[ys][:, xs].flatten().to(features.device)
    objects = (classes != BACKGROUND) & (classes != UNLABELLED)
    vectors = torch.nn.functional.normalize(_patches(features).float(), dim=1)
    same = (classes[:, None] == classes) & objects
    sizes = same.sum(1).clamp(min=1)
    positive = (same & (vectors @ vectors.mT > 0)).sum(1) / sizes * objects
    negative = objects.float() - positive
    return positive.view(rows, columns), negative.view(rows, columns)
