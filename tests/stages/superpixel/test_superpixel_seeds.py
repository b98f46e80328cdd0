from typing import Any

import numpy as np
import pytest
import torch

from tag2mask.data.classes import BACKGROUND, UNLABELLED
from tag2mask.errors import SettingsError
from tag2mask.evidence.seeds import superpixel_seeds
from tag2mask.stages.activation_maps import MakeActivationMaps
from tag2mask.stages.backbone import BackboneSettings
from tag2mask.stages.saliency_maps import MakeSaliencyMaps
from tag2mask.stages.superpixel.superpixel_seeds import SuperpixelSeedSettings, seeds_by_superpixels
from tag2mask.stages.superpixel.superpixels import SuperpixelSettings, superpixels
from tests.stages.conftest import Finished

TRANSFORMER = BackboneSettings(name="vit_tiny_patch16_224", output_stride=16, weights="none")


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


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"background": "gradient"}, "superpixel, saliency"),
        ({"foreground_threshold": -0.1}, "foreground_threshold"),
    ],
)
def test_impossible_settings_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        SuperpixelSeedSettings(**wrong)


def test_seeds_can_be_estimated(finished: Finished) -> None:
    parts = superpixels(SuperpixelSettings(TRANSFORMER))
    stage = seeds_by_superpixels(finished.stage(MakeActivationMaps), parts, SuperpixelSeedSettings())
    assert stage.estimate(finished.env).seconds > 0
