from typing import Any

import pytest

from tag2mask.errors import SettingsError
from tag2mask.stages.backbone import BackboneSettings
from tag2mask.stages.superpixel.superpixels import SuperpixelSettings
from tag2mask.study.superpixels.settings import FeatureSet, StudySettings


@pytest.mark.parametrize(
    "wrong",
    [
        {"photographs": -1},
        {"ncut_photographs": -1},
        {"reference_side": -1},
        {"match_photographs": 0},
        {"iterations": 0},
        {"pictures": 0},
        {"taus": ()},
        {"taus": (0.5, 0.1)},
        {"taus": (0.5, 0.5)},
        {"taus": (-0.1, 0.5)},
        {"taus": (0.5, 1.0)},
        {"slic_sizes": (0,)},
        {"lsc_sizes": (-3,)},
        {"seeds_numbers": (10, 0)},
    ],
)
def test_impossible_values_name_their_key(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        StudySettings(**wrong)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"kind": "smell"}, "choices"), ({"centre": "left"}, "choices"), ({"long_side": 0}, "0"), ({"cell": 0}, "0")],
)
def test_impossible_features_are_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        FeatureSet(**wrong)


def test_the_papers_numbers_are_the_defaults() -> None:
    settings = StudySettings()
    assert settings.slic_sizes == settings.lsc_sizes == (50, 80, 100, 130)
    assert settings.seeds_numbers == (30, 50, 80, 100)
    assert settings.iterations == 30
    assert {0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7} <= set(settings.taus)
    assert any("dino" in features.backbone.name for features in settings.features.values())
    assert any("mae" in features.backbone.name for features in settings.features.values())


@pytest.mark.parametrize("size", [(240, 320), (37, 500), (5, 4), (321, 321)])
def test_ours_sees_what_the_method_sees(size: tuple[int, int]) -> None:
    superpixels = SuperpixelSettings()
    ours = StudySettings(superpixels=superpixels).ours
    assert ours.view(size) == superpixels.view(size)
    assert (ours.backbone, ours.centre) == (superpixels.backbone, superpixels.centre)


def test_colours_have_cells_and_no_weights() -> None:
    colours = FeatureSet("rgb", BackboneSettings(name="tf_efficientnet_lite0", output_stride=32), cell=10)
    assert (colours.stride, colours.identity) == (10, "")
    assert FeatureSet("features", BackboneSettings(output_stride=32, weights="none")).stride == 32
