import dataclasses

from tag2mask.methods.dcp import DcpPatternSettings, DcpSettings, dcp
from tag2mask.stages.crf import CRFSettings
from tag2mask.stages.patterns.pattern_labels import PatternRefinementSettings
from tag2mask.stages.retrain import RetrainSettings


def test_the_chain() -> None:
    plan = dcp(DcpSettings())
    names = [stage.name for stage in dataclasses.replace(plan, results={}, pictures={}).stages()]
    assert names == [
        *("classifier", "cams", "class_patterns", "pattern_maps", "pattern_labels", "refined_pattern_labels"),
        *("segmenter", "training_labels", "segmenter", "predictions"),
    ]
    # The paper retrains from scratch.
    assert "start" not in plan.model.inputs
    assert plan.model.inputs["labels"].settings.restrict_to_tags
    first = plan.model.inputs["labels"].inputs["segmenter"]
    assert first.inputs["labels"].name == "refined_pattern_labels"


def test_what_is_measured() -> None:
    plan = dcp(DcpSettings())
    assert list(plan.results) == [
        *("classifier", "cam_curve", "patterns", "pattern_labels", "pseudo_labels"),
        *("val_first", "retrain_labels", "val"),
    ]
    assert plan.results["pattern_labels"].inputs["labels"].name == "pattern_labels"
    assert plan.results["pseudo_labels"].inputs["labels"].name == "refined_pattern_labels"
    first = plan.results["val_first"].inputs["labels"].inputs["segmenter"]
    assert first is plan.model.inputs["labels"].inputs["segmenter"]
    assert plan.results["val"].inputs["labels"].inputs["segmenter"] is plan.model


def test_without_retraining_the_first_segmenter_is_the_model() -> None:
    plan = dcp(DcpSettings(retrain=RetrainSettings(enabled=False)))
    assert list(plan.results) == ["classifier", "cam_curve", "patterns", "pattern_labels", "pseudo_labels", "val"]
    assert plan.model.inputs["labels"].name == "refined_pattern_labels"
    assert "retrain label" not in plan.pictures["train"]


def test_retraining_can_go_on_from_the_first() -> None:
    plan = dcp(DcpSettings(retrain=RetrainSettings(from_first=True)))
    assert plan.model.inputs["start"].inputs["labels"].name == "refined_pattern_labels"


def test_settings_reach_their_stage() -> None:
    settings = DcpSettings(
        patterns=DcpPatternSettings(
            photographs_per_class=7, long_side=96, output_stride=32, components=9, block="blocks.6"
        ),
        refinement=PatternRefinementSettings("scores", 0.6, CRFSettings(iterations=3)),
    )
    plan = dcp(settings)
    by_name = {stage.name: stage for stage in plan.stages()}
    patterns = by_name["class_patterns"].settings
    assert patterns.blocks == ("blocks.6",)
    assert (patterns.photographs_per_class, patterns.long_side) == (7, 96)
    assert (patterns.output_stride, patterns.components) == (32, 9)
    assert by_name["pattern_maps"].settings.block == "blocks.6"
    for name, part in (
        ("classifier", "classifier"),
        ("cams", "cams"),
        ("refined_pattern_labels", "refinement"),
    ):
        assert by_name[name].settings is getattr(settings, part)
    assert by_name["training_labels"].settings is settings.retrain.labels
    assert plan.model.settings is settings.retrain.segmenter


def test_several_blocks_can_be_asked_for_at_once() -> None:
    settings = DcpPatternSettings(long_side=96, block="blocks.6")
    assert settings.at("blocks.4", "conv_head").blocks == ("blocks.4", "conv_head")
    assert settings.at("blocks.4").long_side == 96
