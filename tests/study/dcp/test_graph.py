import shutil
from pathlib import Path

import pytest

from tag2mask.errors import SettingsError
from tag2mask.stages.backbone import BackboneSettings
from tag2mask.study.dcp.graph import build_study, last_blocks
from tests.builders import file_bytes, write_shapes
from tests.study.dcp.conftest import Done, opened, tiny_settings, tiny_study


def test_the_last_blocks_of_any_backbone() -> None:
    assert last_blocks(BackboneSettings()) == ("blocks.4", "blocks.5", "blocks.6", "conv_head")
    cut = BackboneSettings(name="resnet18", output_stride=32, block="layer2.0")
    assert last_blocks(cut) == ("stem", "layer1.0", "layer1.1", "layer2.0")


def test_masks_are_opened_for_scores_and_colours_alone(done: Done) -> None:
    study, env = done.reopened()
    readers = {stage.name for stage in study.stages() if "masks" in stage.reads}
    assert readers == {"evaluation", "cam_curve", "pixel_planes"}
    makers = {stage.name for stage in study.stages()} - readers
    assert makers == {
        "classifier",
        "cams",
        "class_patterns",
        "pattern_maps",
        "pattern_labels",
        "refined_pattern_labels",
    }
    assert all(stage.complete(env) for stage in study.stages())


def test_a_study_that_was_stopped_makes_what_is_missing_alone(
    done: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("data", "workspace/stages"):
        shutil.copytree(done.root / folder, tmp_path / folder)
    stages = tmp_path / "workspace" / "stages"
    before = file_bytes(stages)
    (pixels,) = stages.glob("pixel_planes-*")
    sorted((pixels / "items").iterdir())[2].unlink()
    (pixels / "stage.json").unlink()
    tiny_study(tmp_path, quiet=False)
    assert file_bytes(stages) == before
    told = capsys.readouterr().err
    assert told.count("already there") == len(list(stages.iterdir())) - 1
    assert "pixel_planes (train): 6/6" in told


def test_rows_are_the_stages_figures(done: Done) -> None:
    study, env = done.reopened()
    cam, *rows = study.rows(env)
    assert cam["masks"].startswith("CAM, threshold 0.")
    assert cam["refined_mean_iou"] is None
    assert [row["masks"] for row in rows] == ["blocks.2", "blocks.4"]
    for row, each in zip(rows, study.masks, strict=True):
        assert each.scores is not None
        assert each.refined_scores is not None
        assert row["mean_iou"] == each.scores.metrics(env)["mean_iou"]
        assert row["refined_mean_iou"] == each.refined_scores.metrics(env)["mean_iou"]
        assert row["refined_iou"] == each.refined_scores.metrics(env)["iou"]
        assert row["images"] == 6


def test_without_masks_nothing_is_scored(unmasked: Done) -> None:
    study, env = unmasked.reopened()
    assert study.rows(env) == []
    assert not {"evaluation", "cam_curve"} & {stage.name for stage in study.stages()}
    assert all(each.refined.complete(env) for each in study.masks)


@pytest.mark.parametrize(
    ("blocks", "classes", "told"),
    [
        (("blocks.9",), None, "block.*'blocks.9'.*choices.*blocks.4"),
        ((), ["cat"], "unknown class 'cat'; choices: disc, square"),
    ],
)
def test_unknown_names_are_told_with_the_choices(
    blocks: tuple[str, ...], classes: list[str] | None, told: str, tmp_path: Path
) -> None:
    write_shapes(tmp_path / "data")
    with pytest.raises(SettingsError, match=told):
        build_study(tiny_settings(*blocks), opened(tmp_path), classes)


def test_a_class_without_photographs_has_no_pixels_to_show(tmp_path: Path) -> None:
    root = write_shapes(tmp_path / "data")
    (root / "classes.txt").write_text("disc\nsquare\nring\n")
    env = opened(tmp_path)
    with pytest.raises(SettingsError, match="no training photograph has the tag 'ring'"):
        build_study(tiny_settings(), env, ["disc", "ring"])
    assert build_study(tiny_settings(), env).pixels.settings.class_ids == (1, 2)
    assert build_study(tiny_settings(), env, ["square", "disc", "square"]).pixels.settings.class_ids == (2, 1)
