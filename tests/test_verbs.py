import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tag2mask
from tag2mask.configure import Configuration, as_arguments, parse_arguments
from tag2mask.data.masks import overlay, read_mask, write_mask
from tag2mask.engine.environment import Runtime
from tag2mask.engine.progress import Reporter
from tag2mask.errors import DataError, SettingsError, WeightsError
from tag2mask.methods.registry import METHODS
from tag2mask.networks.backbones import create_backbone
from tag2mask.networks.classifier import Classifier
from tag2mask.networks.inference import InferenceSettings
from tag2mask.networks.model_file import ModelHeader, save_model
from tag2mask.networks.segmenter import HeadSettings, Segmenter
from tag2mask.settings import canonical
from tag2mask.stages.crf import CRFSettings
from tag2mask.stages.predict import PredictionSettings, predict_mask
from tag2mask.verbs import dry_run, find_photographs, predict, prediction_settings, prepare
from tests.builders import TINY, write_shapes

HEAD = HeadSettings(width=8, dilations=(2,))
SETTINGS = PredictionSettings(InferenceSettings(long_side=32), use_crf=True, crf=CRFSettings(iterations=1))
HEADER = ModelHeader(
    kind="segmenter",
    classes=("disc", "square"),
    backbone={"name": "tf_efficientnet_lite0", "output_stride": 16, "block": "blocks.1"},
    head=canonical(HEAD),
    inference=canonical(SETTINGS),
    weights={},
    training={},
)
RUNTIME = Runtime(device="cpu", threads=1)


@pytest.fixture(scope="module")
def network() -> Segmenter:
    torch.manual_seed(0)
    backbone = create_backbone("tf_efficientnet_lite0", block="blocks.1", weights="none")
    made = Segmenter(backbone, 3, HEAD)
    made.eval()
    last: Any = made.head[-1]  # type: ignore[index]
    # Scores around zero that differ clearly, so that every class wins somewhere.
    torch.nn.init.normal_(last.weight)
    with torch.no_grad():
        last.bias -= made(torch.rand(4, 3, 32, 32) * 2 - 1).mean((0, 2, 3))
    return made


@pytest.fixture
def model(tmp_path: Path, network: Segmenter) -> Path:
    save_model(tmp_path / "model.safetensors", network, HEADER)
    return tmp_path / "model.safetensors"


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    for index, name in enumerate(("a.png", "more/b.jpg", "more/a.bmp")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image = np.random.default_rng(index).integers(0, 256, (4, 5, 3), dtype=np.uint8).repeat(5, 0).repeat(6, 1)
        Image.fromarray(image).save(folder / name)
    (folder / "notes.txt").write_text("no photograph")
    (folder / "._a.png").write_bytes(b"what a Mac leaves on other disks")
    return folder


def test_photographs_are_named_by_their_place(photographs: Path) -> None:
    assert find_photographs([photographs]) == {
        "a": photographs / "a.png",
        "more/a": photographs / "more/a.bmp",
        "more/b": photographs / "more/b.jpg",
    }
    assert find_photographs([photographs / "more" / "b.jpg"]) == {"b": photographs / "more/b.jpg"}
    with pytest.raises(DataError, match=r"a\.bmp and .*a\.png would both"):
        find_photographs([photographs / "a.png", photographs / "more" / "a.bmp"])
    with pytest.raises(DataError, match="nothing: there is no such"):
        find_photographs([photographs / "nothing"])
    (photographs / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no photographs"):
        find_photographs([photographs / "empty"])
    with pytest.raises(DataError, match="lies in the folder for results"):
        find_photographs([photographs / "more"], out=photographs)


def test_masks_and_overlays_are_written(model: Path, photographs: Path, network: Segmenter, tmp_path: Path) -> None:
    written = predict(model, photographs, tmp_path / "out", runtime=RUNTIME, quiet=True)
    assert [item.photograph.name for item in written] == ["a.png", "a.bmp", "b.jpg"]
    for item in written:
        image = np.asarray(Image.open(item.photograph))
        tensor = torch.from_numpy(image.copy()).permute(2, 0, 1)
        expected = predict_mask(network, tensor, SETTINGS, RUNTIME.resolved())
        found = read_mask(item.mask)
        assert (found == expected).mean() > 0.99  # another memory layout rounds elsewhere
        shown = np.asarray(Image.open(item.overlay)).astype(int)
        assert np.abs(shown - overlay(image, found)).mean() < 25  # JPEG of noise
    assert written[1].mask == tmp_path / "out" / "masks" / "more" / "a.png"
    assert written[1].overlay == tmp_path / "out" / "overlays" / "more" / "a.jpg"


def test_the_crf_can_be_left_out(model: Path, photographs: Path, tmp_path: Path) -> None:
    masks = {}
    for use_crf in (None, True, False):
        (item,) = predict(model, photographs / "a.png", tmp_path, use_crf=use_crf, runtime=RUNTIME, quiet=True)
        masks[use_crf] = read_mask(item.mask)
    assert np.array_equal(masks[None], masks[True])
    assert not np.array_equal(masks[True], masks[False])


def predicted_classes(model: Path, photographs: Path, rows: str) -> dict[str, set[int]]:
    table = photographs.parent / "tags.csv"
    table.write_text(f"image_path,label\n{rows}")
    written = predict(
        model, photographs, photographs.parent / "out", tags=table, use_crf=False, runtime=RUNTIME, quiet=True
    )
    return {item.photograph.name: set(np.unique(read_mask(item.mask)).tolist()) for item in written}


def test_tags_are_names_or_numbers_and_go_by_place(model: Path, photographs: Path) -> None:
    """Two photographs are called a; each is restricted to its own tags."""
    found = predicted_classes(model, photographs, 'a.png,disc\nmore/a.bmp,2\nmore/b.jpg,"disc,square"\n')
    assert found["a.png"] <= {0, 1}
    assert found["a.bmp"] <= {0, 2}
    assert found["b.jpg"] == {0, 1, 2}
    assert found["a.png"] | found["a.bmp"] == {0, 1, 2}


def test_tags_may_be_found_by_the_name_alone_if_it_is_clear(model: Path, photographs: Path) -> None:
    rows = "a.png,disc\nmore/a.bmp,square\nelsewhere/b.png,\n"
    assert predicted_classes(model, photographs, rows)["b.jpg"] == {0}
    with pytest.raises(DataError, match=r"several rows for .*b\.jpg.*line 4.*line 5"):
        predicted_classes(model, photographs, f"{rows}anywhere/b.png,disc\n")
    with pytest.raises(DataError, match=r"no row for .*b\.jpg"):
        predicted_classes(model, photographs, "a.png,disc\nmore/a.bmp,square\n")
    with pytest.raises(DataError, match=r"line 2.*'cat'.*disc, square"):
        predicted_classes(model, photographs, "a.png,cat\n")


def test_a_classifier_makes_no_masks(tmp_path: Path, photographs: Path) -> None:
    backbone = create_backbone("tf_efficientnet_lite0", block="blocks.1", weights="none")
    path = tmp_path / "classifier.safetensors"
    save_model(path, Classifier(backbone, 2), dataclasses.replace(HEADER, kind="classifier", head={}))
    with pytest.raises(WeightsError, match=r"classifier\.safetensors: .*'classifier' makes no masks"):
        predict(path, photographs, tmp_path / "out", quiet=True)


def test_a_model_file_says_how_it_is_used() -> None:
    assert prediction_settings(HEADER) == SETTINGS
    of_a_stage = dataclasses.replace(HEADER, inference=canonical(SETTINGS.inference))
    assert prediction_settings(of_a_stage) == PredictionSettings(SETTINGS.inference)


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


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    configuration = configured(write_shapes(tmp_path / "data"))
    forecasts, env = dry_run(configuration, Reporter(quiet=True))
    assert [item.stage.name for item in forecasts][:2] == ["classifier", "classifier_scores"]
    assert all(item.estimate is not None and item.estimate.seconds > 0 for item in forecasts)
    assert not env.workspace.root.exists()


def test_evaluate_names_classes(tmp_path: Path) -> None:
    for folder, ids in (("truth", [0, 1, 2, 255]), ("predictions", [0, 1, 1, 1])):
        (tmp_path / folder).mkdir()
        write_mask(tmp_path / folder / "x.png", np.array([ids], dtype=np.uint8))
    scores = tag2mask.evaluate(tmp_path / "predictions", tmp_path / "truth", classes=["cat", "dog"])
    assert scores.classes == ("background", "cat", "dog")
    assert scores.iou == (1.0, 0.5, 0.0)
    assert tag2mask.evaluate(tmp_path / "predictions", tmp_path / "truth").mean_iou == 0.5


def test_lists_and_choices() -> None:
    assert [method.name for method in tag2mask.list_methods()] == list(METHODS)
    assert {info.name for info in tag2mask.list_backbones("resnet1?")} >= {"resnet18"}
    with pytest.raises(
        SettingsError, match="choices: cam, sec, dsrg, psa, ssdd, dcp, masking, superpixel, rrm, aalr, supervised"
    ):
        tag2mask.run("cap", "data")


def test_demo_draws_and_runs_with_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[str, Any] = {}
    monkeypatch.setattr("tag2mask.verbs.write_demo_data", lambda folder, progress: calls.update(drawn=folder))
    monkeypatch.setattr("tag2mask.verbs.run", lambda *args, **more: calls.update(args=args, **more))
    tag2mask.demo(tmp_path, quiet=True, seed=3)
    assert calls["drawn"] == tmp_path / "data"
    assert calls["args"] == ("cam", tmp_path / "data")
    assert (calls["workspace"], calls["bound"], calls["seed"]) == (tmp_path / "workspace", True, 3)
    assert calls["config"] == "demo/cam"
