"""Features of photographs of several classes, made up, and what NumPy makes of them."""

import importlib
import os
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tag2mask.evidence.class_statistics import ClassStatistics

CLASSES, DIMENSIONS = 5, 12
Floats = npt.NDArray[np.floating[Any]]
Photograph = tuple[Floats, list[int], Floats]


def needed(module: str) -> ModuleType:
    """A package of the bench extra: these tests may be skipped without it, but not on CI."""
    return importlib.import_module(module) if os.environ.get("CI") == "true" else pytest.importorskip(module)


def photographs(count: int = 9, *, seed: int = 0, mean: float = 1.0, dtype: type = np.float64) -> list[Photograph]:
    """Features with one strong direction, one to three classes and CAMs that follow that direction."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=DIMENSIONS)
    drawn = []
    for _ in range(count):
        pixels = int(rng.integers(1, 60))
        strength = rng.normal(size=pixels) * 3 + rng.normal()
        features = mean + strength[:, None] * direction + rng.normal(size=(pixels, DIMENSIONS)) * rng.random(DIMENSIONS)
        classes = rng.choice(np.arange(1, CLASSES), int(rng.integers(1, 4)), replace=False).tolist()
        cams = 1 / (1 + np.exp(-strength + rng.normal(size=(len(classes), pixels))))
        drawn.append((features.astype(dtype), classes, cams))
    return drawn


def counted(drawn: list[Photograph], *, cams: bool = True) -> ClassStatistics:
    statistics = ClassStatistics(CLASSES, DIMENSIONS)
    for features, classes, heights in drawn:
        statistics.add(features, classes, heights if cams else None)
    return statistics


def stacked(drawn: list[Photograph], class_id: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """All features and CAM values of a class, float64."""
    features = [f for f, classes, _ in drawn if class_id in classes]
    cams = [heights[classes.index(class_id)] for _, classes, heights in drawn if class_id in classes]
    return np.concatenate(features).astype(np.float64), np.concatenate(cams)


def assert_equals_stacked(statistics: ClassStatistics, drawn: list[Photograph], tolerance: float = 1e-12) -> None:
    """Against NumPy; tolerance relative to the largest eigenvalue."""
    for class_id in statistics.seen:
        features, cams = stacked(drawn, class_id)
        covariance = np.cov(features, rowvar=False, bias=True)
        scale = max(np.linalg.eigvalsh(covariance)[-1], 1e-12)
        assert statistics.count(class_id) == len(features)
        np.testing.assert_allclose(
            statistics.mean(class_id), features.mean(0), rtol=1e-14, atol=tolerance * np.sqrt(scale)
        )
        np.testing.assert_allclose(statistics.covariance(class_id), covariance, rtol=0, atol=tolerance * scale)
        together = ((features - features.mean(0)) * (cams - cams.mean())[:, None]).mean(0)
        np.testing.assert_allclose(
            statistics.cam_covariance(class_id), together, rtol=0, atol=tolerance * max(np.sqrt(scale), 1)
        )
