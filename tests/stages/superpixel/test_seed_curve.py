from pathlib import Path

import numpy as np
import pytest

from tag2mask.data.classes import UNLABELLED
from tag2mask.errors import SettingsError
from tag2mask.evaluation.segmentation import ThresholdCurve
from tag2mask.evidence.seeds import superpixel_average, superpixel_seeds
from tag2mask.stages.activation_maps import MakeActivationMaps
from tag2mask.stages.backbone import BackboneSettings
from tag2mask.stages.labels import read_truth
from tag2mask.stages.superpixel.seed_curve import EvaluateSuperpixelSeeds, SeedCurveSettings, evaluate_superpixel_seeds
from tag2mask.stages.superpixel.superpixels import SuperpixelSettings, superpixels
from tests.stages.conftest import Finished


@pytest.fixture(scope="module")
def stage(finished: Finished) -> EvaluateSuperpixelSeeds:
    transformer = BackboneSettings(name="vit_tiny_patch16_224", output_stride=16, weights="none")
    parts = superpixels(SuperpixelSettings(transformer, long_side=64, tau=0.5))
    parts.run(finished.env)
    made = evaluate_superpixel_seeds(finished.stage(MakeActivationMaps), parts)
    made.run(finished.env)
    return made


def test_figures_equal_those_of_a_plain_loop(finished: Finished, stage: EvaluateSuperpixelSeeds) -> None:
    env, figures = finished.env, stage.metrics(finished.env)
    counts = dict.fromkeys(("pixels", "foreground", "right", "background", "right_background"), 0)
    averaged = ThresholdCurve(("background", *env.dataset.classes), [0.35])
    for sample in stage.samples(env):
        truth = read_truth(sample, env.dataset.num_classes)
        cams, parts = stage.cams.load(env, sample.id), stage.superpixels.load(env, sample.id)
        seeds = superpixel_seeds(cams.at_size(), cams.class_ids, parts, 0.5).numpy()
        known = truth != UNLABELLED
        foreground, background = known & (seeds != 0) & (seeds != UNLABELLED), known & (seeds == 0)
        counts["pixels"] += known.sum()
        counts["foreground"] += foreground.sum()
        counts["right"] += (foreground & (seeds == truth)).sum()
        counts["background"] += background.sum()
        counts["right_background"] += (background & (truth == 0)).sum()
        averaged.add(truth, superpixel_average(cams.at_size(), parts).numpy(), cams.class_ids)
    (point,) = (point for point in figures["curve"] if point["alpha"] == 0.5)
    assert point["foreground_precision"] == pytest.approx(counts["right"] / counts["foreground"])
    assert point["foreground_share"] == pytest.approx(counts["foreground"] / counts["pixels"])
    assert point["background_precision"] == pytest.approx(counts["right_background"] / counts["background"])
    assert point["background_share"] == pytest.approx(counts["background"] / counts["pixels"])
    assert point["labelled_share"] == pytest.approx(point["foreground_share"] + point["background_share"])
    ((_, expected),) = averaged.scores()
    (found,) = (item["mean_iou"] for item in figures["averaged_cam"] if item["threshold"] == pytest.approx(0.35))
    assert found == pytest.approx(expected)


def test_the_higher_alpha_the_fewer_seeds(finished: Finished, stage: EvaluateSuperpixelSeeds) -> None:
    curve = stage.metrics(finished.env)["curve"]
    assert [point["alpha"] for point in curve] == [0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    shares = [point["foreground_share"] for point in curve]
    assert np.all(np.diff(shares) <= 0)
    assert shares[-1] < shares[0]


def test_what_people_see(finished: Finished, stage: EvaluateSuperpixelSeeds, tmp_path: Path) -> None:
    env = finished.env
    assert stage.headline(env).startswith("best mIoU ")
    assert "of CAMs averaged over superpixels" in stage.headline(env)
    assert stage.details(env)[0].startswith("alpha 0.3: foreground seeds")
    assert [path.name for path in stage.draw(env, tmp_path)] == ["seed_curve.png"]
    assert stage.estimate(env).seconds > 0


def test_alphas_are_checked() -> None:
    with pytest.raises(SettingsError, match="alphas"):
        SeedCurveSettings(alphas=(0.5, 1.5))
