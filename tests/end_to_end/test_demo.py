"""The demo as people run it, on real pretrained weights."""

from pathlib import Path

import numpy as np
import pytest

import tag2mask
from tag2mask.data.datasets import open_dataset
from tag2mask.engine.environment import Environment
from tag2mask.engine.workspace import Workspace
from tag2mask.methods.registry import METHODS
from tag2mask.runs.folder import RunResult
from tag2mask.runs.settings import parse_arguments
from tag2mask.stages.activation_maps import activation_maps
from tag2mask.stages.train_classifier import train_classifier


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def result(out: Path) -> RunResult:
    return tag2mask.demo(out, quiet=True)


@pytest.mark.slow
def test_tags_give_masks_and_true_masks_give_better_ones(result: RunResult) -> None:
    metrics = result.metrics
    assert metrics["classifier"]["mean_average_precision"] > 0.9
    assert metrics["val"]["mean_iou"] > 0.3
    assert metrics["bound_val"]["mean_iou"] > metrics["val"]["mean_iou"] + 0.10
    assert metrics["train"]["images"] == 240
    assert len(list(result.masks.glob("*.png"))) == 300
    assert result.report.stat().st_size > 1e6


@pytest.mark.slow
def test_cams_lie_on_their_objects(out: Path, result: RunResult) -> None:
    settings = parse_arguments(METHODS["cam"], ["--config", "demo/cam", "--data", str(out / "data")]).settings
    env = Environment(open_dataset(out / "data"), Workspace(out / "workspace"))
    cams = activation_maps(train_classifier(settings.classifier), settings.cams)
    assert cams.complete(env)
    hits, higher = [], []
    for sample in env.dataset.train:
        assert sample.mask is not None
        truth, maps = sample.mask.read(), cams.load(env, sample.id)
        for class_id, heat in zip(maps.class_ids, maps.at_size().numpy(), strict=True):
            row, column = np.unravel_index(heat.argmax(), heat.shape)
            hits.append(truth[row, column] == class_id)
            higher.append(heat[truth == class_id].mean() > 1.5 * heat[truth != class_id].mean())
    # Peaks are flat and often just beside a small object; a peak by chance would hit a fifth of the time.
    assert np.mean(hits) > 0.5
    assert np.mean(higher) > 0.9
