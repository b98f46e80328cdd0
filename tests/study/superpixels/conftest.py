"""A whole study that takes seconds: random weights, tiny photographs."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pytest

from tag2mask.api.study_superpixels import study_superpixels
from tag2mask.stages.backbone import BackboneSettings
from tag2mask.stages.crf import CRFSettings
from tag2mask.stages.superpixel.superpixels import SuperpixelSettings
from tag2mask.study.page import StudyResult
from tag2mask.study.superpixels.settings import FeatureSet, StudySettings
from tests.builders import write_shapes

TRANSFORMER = BackboneSettings(name="vit_tiny_patch16_224", output_stride=16, weights="none")


@dataclass(frozen=True)
class Done:
    """A study that was run: where, with what, and what came of it."""

    root: Path
    settings: StudySettings
    result: StudyResult


def tiny_settings(**changes: object) -> StudySettings:
    """Settings that take seconds, every contender among them."""
    given = {
        "superpixels": SuperpixelSettings(
            backbone=TRANSFORMER, long_side=96, tau=0.5, centre="mean", crf=CRFSettings(iterations=1)
        ),
        "taus": (0.0, 0.3, 0.7),
        "features": {
            "colours": FeatureSet("rgb", long_side=64, cell=8),
            "a CNN": FeatureSet("features", BackboneSettings(weights="none"), long_side=64),
            "nobody's": FeatureSet("keys", dataclasses.replace(TRANSFORMER, weights="package")),
        },
        "match_photographs": 2,
        "slic_sizes": (130, 260),
        "lsc_sizes": (130, 260),
        "seeds_numbers": (4, 12),
        "iterations": 2,
        "pictures": 2,
    }
    return StudySettings(**{**given, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The study of four of six shapes; no package has weights for one of the features."""
    root = tmp_path_factory.mktemp("study")
    write_shapes(root / "data")
    settings = tiny_settings(photographs=4, ncut_photographs=3)
    result = study_superpixels(
        root / "data", workspace=root / "workspace", out=root / "out", settings=settings, quiet=True
    )
    return Done(root, settings, result)
