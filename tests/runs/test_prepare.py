from pathlib import Path
from typing import Any

import pytest

from tag2mask.engine.progress import Reporter
from tag2mask.errors import DataError
from tag2mask.methods.registry import METHODS
from tag2mask.runs.prepare import prepare
from tag2mask.runs.settings import Configuration, as_arguments, parse_arguments
from tests.builders import TINY, write_shapes


def configured(root: Path, **given: Any) -> Configuration:
    places = {"data": root, "workspace": root.parent / "ws", "threads": 1, "device": "cpu"}
    return parse_arguments(METHODS["cam"], as_arguments({**places, **TINY, **given}))


def without_masks(root: Path, *numbers: int) -> Path:
    for number in numbers:
        (root / "SegmentationClass" / f"shape_{number:02d}.png").unlink()
    return root


def results(configuration: Configuration, capsys: pytest.CaptureFixture[str]) -> tuple[set[str], str]:
    _, plan = prepare(configuration, Reporter())
    return set(plan.results), capsys.readouterr().err


EVERYTHING = {"classifier", "cam_curve", "seeds", "pseudo_labels", "val"}


def test_what_needs_truth_is_measured_where_there_is_truth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_shapes(tmp_path / "data")
    assert results(configured(root), capsys) == (EVERYTHING, "")
    assert results(configured(root, bound=True), capsys)[0] == EVERYTHING | {"bound_val"}
    without_masks(root, 6, 7, 8)
    found, said = results(configured(root), capsys)
    assert found == EVERYTHING - {"val"}
    assert said == (
        "no truth: no true masks of the val photographs are known, so the quality of their masks could not be measured "
        "(left out: val); look at them.\n"
    )
    without_masks(root, *range(6))
    found, said = results(configured(root), capsys)
    assert found == {"classifier"}
    assert [line.partition(" are known")[0] for line in said.splitlines()] == [
        "no truth: no true masks of the train photographs",
        "no truth: no true masks of the val photographs",
    ]
    assert "(left out: cam_curve, seeds, pseudo_labels)" in said


def test_the_plan_remembers_what_was_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = without_masks(write_shapes(tmp_path / "data"), 3, 6, 7, 8)
    _, plan = prepare(configured(root, bound=True), Reporter())
    assert capsys.readouterr().err.splitlines() == list(plan.notes)
    assert len(plan.notes) == 2


def test_masks_of_the_training_photographs_on_demand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_shapes(tmp_path / "data")
    _, plan = prepare(configured(root, all_masks=True, bound=True), Reporter(quiet=True))
    assert list(plan.results) == [
        "classifier",
        "cam_curve",
        "seeds",
        "pseudo_labels",
        "val",
        "masks",
        "train",
        "bound_val",
    ]
    masks = plan.results["masks"]
    assert (masks.name, masks.split) == ("predictions", "train")
    assert plan.results["train"].inputs["labels"] is masks
    assert plan.pictures["train"]["prediction"] is masks
    assert list(plan.pictures["train"]) == ["CAM", "seeds", "pseudo-label", "prediction"]
    assert plan.pictures["val"] == {
        "prediction": plan.predictions,
        "supervised": plan.results["bound_val"].inputs["labels"],
    }
    without_masks(root, *range(9))
    assert results(configured(root, all_masks=True), capsys)[0] == {"classifier", "masks"}
    _, plain = prepare(configured(root), Reporter(quiet=True))
    assert "prediction" not in plain.pictures["train"]


def test_the_bound_needs_every_mask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Told before the method's hour of work, not after it."""
    root = without_masks(write_shapes(tmp_path / "data"), 3)
    found, said = results(configured(root, bound=True), capsys)
    assert found == EVERYTHING
    assert "The upper bound was left out: not every training photograph has a true mask." in said


def test_a_method_on_masks_says_at_once_what_is_missing(tmp_path: Path) -> None:
    root = without_masks(write_shapes(tmp_path / "data"), 2, 3)
    given = as_arguments({"data": root, "workspace": tmp_path / "ws"})
    with pytest.raises(DataError, match=r"supervised needs true masks, which 2 of the train.*shape_02\.png"):
        prepare(parse_arguments(METHODS["supervised"], given), Reporter(quiet=True))


def test_where_photographs_were_held_out_all_get_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_shapes(tmp_path / "data", train=12, val=0, masks=False)
    (root / "ImageSets" / "Segmentation" / "val.txt").unlink()
    env, plan = prepare(configured(root, hold_out=0.25), Reporter(quiet=True))
    assert set(plan.results) == {"classifier", "masks"}
    assert plan.notes[0] == (
        f"{len(env.split('val'))} of the 12 photographs were held out of training, because no list of photographs to "
        "measure on was given: the classifier's tags alone were scored on them."
    )
    assert "no true masks of the held-out photographs" in plan.notes[2]
    assert plan.results["masks"].name == plan.predictions.name == "predictions"
    assert (plan.results["masks"].split, plan.predictions.split) == ("train", "val")


def test_one_photograph_is_told_as_one(tmp_path: Path) -> None:
    root = write_shapes(tmp_path / "data", train=6, val=0)
    (root / "ImageSets" / "Segmentation" / "val.txt").unlink()
    env, plan = prepare(configured(root, hold_out=0.13), Reporter(quiet=True))
    assert len(env.split("val")) == 1
    assert plan.notes[0].startswith("1 of the 6 photographs was held out of training")
    assert plan.notes[0].endswith("tags and masks were scored on it.")
    given = as_arguments({"data": without_masks(write_shapes(tmp_path / "lacking"), 2), "workspace": tmp_path / "ws"})
    with pytest.raises(DataError, match=r"which 1 of the train photographs does not have"):
        prepare(parse_arguments(METHODS["supervised"], given), Reporter(quiet=True))
