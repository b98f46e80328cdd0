import dataclasses

from tag2mask.methods.rrm import RrmSettings, rrm
from tag2mask.stages.single_stage.single_stage_settings import (
    DenseEnergySettings,
    OnlineCamSettings,
    SingleStageSettings,
)

SETTINGS = RrmSettings()


def test_the_chain() -> None:
    plan = rrm(SETTINGS)
    names = [stage.name for stage in dataclasses.replace(plan, results={}, pictures={}).stages()]
    assert names == ["classifier", "single_stage", "predictions"]
    assert plan.model.inputs["start"].name == "classifier"
    assert plan.model.batch.labels is None
    assert plan.model.strips


def test_from_the_pretrained_backbone_there_is_no_classifier() -> None:
    plan = rrm(dataclasses.replace(SETTINGS, single_stage=SingleStageSettings(start="pretrained")))
    assert "classifier" not in {stage.name for stage in plan.stages()}
    assert list(plan.results) == ["pseudo_labels", "val"]


def test_what_is_measured() -> None:
    plan = rrm(SETTINGS)
    assert list(plan.results) == ["classifier", "pseudo_labels", "val"]
    assert plan.results["pseudo_labels"].inputs["labels"].name == "grown_labels"
    assert plan.results["val"].inputs["labels"].inputs["segmenter"] is plan.model
    assert list(plan.pictures["train"]) == ["online label"]


def test_settings_reach_their_stage() -> None:
    changed = dataclasses.replace(
        SETTINGS,
        online_cams=OnlineCamSettings(low_alpha=2.0),
        dense_energy=DenseEnergySettings(enabled=True),
        single_stage=SingleStageSettings(segmentation_from=0.25),
    )
    model = rrm(changed).model
    assert model.settings is changed.segmenter
    assert model.parts.online_cams is changed.online_cams
    assert model.parts.settings is changed.single_stage
    assert model.parts.dense_energy is changed.dense_energy
    plain = rrm(SETTINGS).model.parts
    assert plain.dense_energy is plain.affinity is plain.reassign is None
