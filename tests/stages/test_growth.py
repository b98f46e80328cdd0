from typing import Any

import pytest

from tag2mask.errors import SettingsError
from tag2mask.stages.growth import (
    ExpansionSettings,
    OnlineCRFSettings,
    RegionGrowingSettings,
    SuperpixelGrowingSettings,
    region_growing,
    superpixel_growing,
)

CRF = OnlineCRFSettings(iterations=3, gaussian_sxy=4, bilateral_sxy=40, shrink=8, unary="flat")


def needs(growing: RegionGrowingSettings, *, needs_crf: bool) -> frozenset[str]:
    return region_growing(growing, CRF, needs_crf=needs_crf)().needs


def test_what_dsrg_and_sec_need_of_a_batch() -> None:
    grown = {"present", "inside"}
    assert needs(RegionGrowingSettings(), needs_crf=False) == grown | {"image_on_grid"}
    assert needs(RegionGrowingSettings(grow_on="softmax"), needs_crf=False) == grown
    assert needs(RegionGrowingSettings(grow_on="softmax"), needs_crf=True) == grown | {"image_on_grid"}
    assert needs(RegionGrowingSettings(enabled=False), needs_crf=True) == {"inside", "image_on_grid"}
    assert needs(RegionGrowingSettings(enabled=False), needs_crf=False) == frozenset()
    assert superpixel_growing(SuperpixelGrowingSettings())().needs == grown | {"superpixels"}
    assert superpixel_growing(SuperpixelGrowingSettings(enabled=False))().needs == frozenset()


def test_settings_reach_the_modules_and_with_them_the_fingerprint() -> None:
    made = repr(region_growing(RegionGrowingSettings(True, 0.9, 0.8), CRF, needs_crf=True)())
    for part in ("background_threshold=0.9", "foreground_threshold=0.8", "iterations=3", "shrink=8.0", "unary=flat"):
        assert part in made
    assert "bilateral_sxy=40.0" in made
    assert "foreground_threshold=0.6" in repr(superpixel_growing(SuperpixelGrowingSettings(True, 0.5, 0.6))())


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        (OnlineCRFSettings, {"shrink": 0.0}, r"^crf\.shrink: 0\.0"),
        (OnlineCRFSettings, {"unary": "linear"}, r" crf\.unary .*log, flat"),
        (OnlineCRFSettings, {"reference_side": 500}, r"^crf\.reference_side"),
        (OnlineCRFSettings, {"gaussian_sxy": 0.0}, "gaussian_sxy"),
        (RegionGrowingSettings, {"background_threshold": 1.1}, "background_threshold"),
        (RegionGrowingSettings, {"grow_on": "cam"}, "crf, softmax"),
        (SuperpixelGrowingSettings, {"foreground_threshold": -0.1}, "foreground_threshold"),
        (ExpansionSettings, {"present_decay": 1.1}, "present_decay"),
    ],
)
def test_impossible_settings_are_named(kind: type, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        kind(**wrong)


def test_decays_go_by_the_losss_names() -> None:
    assert ExpansionSettings(present_decay=0.5).decays == {
        "present_decay": 0.5,
        "background_decay": 0.999,
        "absent_decay": 0.0,
    }
