from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tag2mask.data.classes import BACKGROUND, UNLABELLED
from tag2mask.errors import SettingsError
from tag2mask.evidence.seeds import add_background, claimed_labels, superpixel_seeds
from tag2mask.stages.activation_maps import MakeActivationMaps
from tag2mask.stages.backbone import BackboneSettings
from tag2mask.stages.gradient_maps import GradientSettings, MakeGradientMaps
from tag2mask.stages.saliency_maps import MakeSaliencyMaps, SaliencySettings, saliency_maps
from tag2mask.stages.sparse_seeds import (
    CueSettings,
    SuperpixelSeedSettings,
    background_evidence,
    cue_seeds,
    seeds_by_superpixels,
)
from tag2mask.stages.superpixel.superpixels import SuperpixelSettings, superpixels
from tag2mask.stages.train_classifier import TrainClassifier
from tests.stages.conftest import Finished

TRANSFORMER = BackboneSettings(name="vit_tiny_patch16_224", output_stride=16, weights="none")


@pytest.fixture(scope="module")
def saliency(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> MakeSaliencyMaps:
    """Maps that rise from the left border to the right one."""
    folder = tmp_path_factory.mktemp("saliency")
    for sample in finished.env.split("train").samples:
        with Image.open(sample.image) as image:
            width, height = image.size
        ramp = np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))
        Image.fromarray(ramp).save(folder / f"{sample.id}.png")
    stage = saliency_maps(SaliencySettings(source="folder", path=str(folder)))
    stage.run(finished.env)
    return stage


def test_cue_seeds_are_claims_and_low_evidence(finished: Finished, saliency: MakeSaliencyMaps) -> None:
    env, cams = finished.env, finished.stage(MakeActivationMaps)
    stage = cue_seeds(cams, CueSettings(0.6, "saliency", background_below=0.3), saliency)
    stage.run(env)
    for sample in stage.samples(env):
        maps = cams.load(env, sample.id)
        claims = claimed_labels(maps.at_size(), maps.class_ids, 0.6)
        expected = add_background(claims, saliency.load(env, sample.id), below=0.3)
        assert np.array_equal(stage.load(env, sample.id), expected.numpy())
        left = expected[:, : expected.shape[1] // 5]
        assert not (left == UNLABELLED).any()  # neither claimed nor salient


def test_the_largest_cam_stands_for_saliency(finished: Finished) -> None:
    env, cams = finished.env, finished.stage(MakeActivationMaps)
    stage = cue_seeds(cams, CueSettings(0.6, "cam", background_below=0.2), None)
    stage.run(env)
    tagged, untagged = (next(s for s in stage.samples(env) if bool(s.tags) == wanted) for wanted in (True, False))
    largest = cams.load(env, tagged.id).at_size().amax(0)
    labels = torch.from_numpy(stage.load(env, tagged.id))
    assert torch.equal(labels == BACKGROUND, largest < 0.2)
    assert torch.equal((labels != BACKGROUND) & (labels != UNLABELLED), largest > 0.6)
    assert (stage.load(env, untagged.id) == BACKGROUND).all()


def test_superpixel_seeds_with_and_without_saliency(finished: Finished, saliency: MakeSaliencyMaps) -> None:
    env, cams = finished.env, finished.stage(MakeActivationMaps)
    parts = superpixels(SuperpixelSettings(TRANSFORMER, long_side=64, tau=0.5))
    parts.run(env)
    settings = SuperpixelSeedSettings(0.6, background_below=0.3)
    plain, salient = (seeds_by_superpixels(cams, parts, settings, given) for given in (None, saliency))
    for stage in (plain, salient):
        stage.run(env)
    assert plain.fingerprint(env) != salient.fingerprint(env)
    for sample in plain.samples(env):
        maps = cams.load(env, sample.id)
        expected = superpixel_seeds(maps.at_size(), maps.class_ids, parts.load(env, sample.id), 0.6)
        assert np.array_equal(plain.load(env, sample.id), expected.numpy())
        foreground = (expected != BACKGROUND) & (expected != UNLABELLED)
        found = torch.from_numpy(salient.load(env, sample.id))
        low = saliency.load(env, sample.id) < 0.3
        assert torch.equal(found[foreground], expected[foreground])
        assert torch.equal((found == BACKGROUND)[~foreground], low[~foreground])


def test_which_stage_says_where_background_is(finished: Finished, saliency: MakeSaliencyMaps) -> None:
    classifier = finished.stage(TrainClassifier)

    def chosen(background: Any, source: SaliencySettings) -> object:
        return background_evidence(CueSettings(background=background), classifier, source, GradientSettings())

    assert isinstance(chosen("saliency", saliency.settings), MakeSaliencyMaps)
    assert isinstance(chosen("gradient", SaliencySettings()), MakeGradientMaps)
    assert chosen("cam", SaliencySettings()) is None
    with pytest.raises(SettingsError, match=r"saliency\.source"):
        chosen("saliency", SaliencySettings())


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        (CueSettings, {"background": "sky"}, "saliency, gradient, cam"),
        (CueSettings, {"foreground_threshold": 1.5}, "foreground_threshold"),
        (CueSettings, {"background_below": -0.1}, "background_below"),
        (CueSettings, {"background_share": 2.0, "background_below": 0.0}, "background_share"),
        (CueSettings, {"background_share": 0.1}, "one of background_below and background_share"),
        (CueSettings, {"background_below": 0.0}, "one of background_below and background_share"),
        (SuperpixelSeedSettings, {"background": "gradient"}, "superpixel, saliency"),
        (SuperpixelSeedSettings, {"foreground_threshold": -0.1}, "foreground_threshold"),
    ],
)
def test_impossible_settings_are_named(kind: type, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        kind(**wrong)


def test_seeds_can_be_estimated(finished: Finished, tmp_path: Path) -> None:
    cams = finished.stage(MakeActivationMaps)
    parts = superpixels(SuperpixelSettings(TRANSFORMER))
    for stage in (
        cue_seeds(cams, CueSettings(), None),
        seeds_by_superpixels(cams, parts, SuperpixelSeedSettings()),
    ):
        assert stage.estimate(finished.env).seconds > 0
