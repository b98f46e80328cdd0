from typing import Any

import numpy as np
import pytest
import torch

from tag2mask.data.classes import BACKGROUND, UNLABELLED
from tag2mask.errors import SettingsError
from tag2mask.evidence.seeds import add_background, claimed_labels
from tag2mask.stages.activation_maps import MakeActivationMaps
from tag2mask.stages.gradient_maps import GradientSettings, MakeGradientMaps
from tag2mask.stages.saliency_maps import MakeSaliencyMaps, SaliencySettings
from tag2mask.stages.sparse_seeds import CueSettings, background_evidence, cue_seeds
from tag2mask.stages.train_classifier import TrainClassifier
from tests.stages.conftest import Finished


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
    ("wrong", "message"),
    [
        ({"background": "sky"}, "saliency, gradient, cam"),
        ({"foreground_threshold": 1.5}, "foreground_threshold"),
        ({"background_below": -0.1}, "background_below"),
        ({"background_share": 2.0, "background_below": 0.0}, "background_share"),
        ({"background_share": 0.1}, "one of background_below and background_share"),
        ({"background_below": 0.0}, "one of background_below and background_share"),
    ],
)
def test_impossible_settings_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        CueSettings(**wrong)


def test_seeds_can_be_estimated(finished: Finished) -> None:
    assert cue_seeds(finished.stage(MakeActivationMaps), CueSettings(), None).estimate(finished.env).seconds > 0
