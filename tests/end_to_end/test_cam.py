"""The main job from end to end, on small shapes and random weights: what is checked is the machinery, not the masks."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import tag2mask
from tag2mask.api.run import run_configuration
from tag2mask.cli import main
from tag2mask.data.masks import read_mask
from tag2mask.engine.progress import Reporter
from tag2mask.errors import DataError
from tag2mask.methods.registry import DEFAULT_METHOD, METHODS
from tag2mask.runs.settings import Configuration, as_arguments, parse_arguments
from tests.builders import TINY, TINY_OF, write_shapes


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, settings and a finished run."""
    folder = tmp_path_factory.mktemp("home")
    write_shapes(folder / "data")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    assert main(words(folder, "--bound", "true")) == 0
    return folder


def words(folder: Path, *more: str, method: str = "cam", data: str = "data", workspace: str = "ws") -> list[str]:
    places = ["--data", str(folder / data), "--workspace", str(folder / workspace)]
    return ["run", method, "--config", str(folder / "tiny.yaml"), "--threads", "1", *places, *more]


def configured(folder: Path, method: str = "cam", **given: Any) -> Configuration:
    settings = {"threads": 1, "data": folder / "data", "workspace": folder / "ws", **given}
    config = ["--config", str(folder / "tiny.yaml")] if method == "cam" else []
    return parse_arguments(METHODS[method], [*config, *as_arguments(settings)])


def run_folder(folder: Path, workspace: str = "ws") -> Path:
    (found,) = (folder / workspace / "runs").glob("cam-*")
    return found


def test_a_run_leaves_masks_figures_model_and_pictures(home: Path) -> None:
    folder = run_folder(home)
    content = json.loads((folder / "run.json").read_text())
    names = [stage["name"] for stage in content["stages"]]
    chain = ["classifier", "cams", "seeds", "refined_labels", "frozen_features", "segmenter"]
    assert [name for name in dict.fromkeys(names) if name in chain] == chain
    assert {"predictions", "true_masks", "evaluation", "classifier_scores", "cam_curve"} <= set(names)
    assert names.count("frozen_features") == 1  # shared by the method and its bound
    metrics = content["metrics"]
    assert set(metrics) == {"classifier", "cam_curve", "seeds", "pseudo_labels", "val", "bound_val"}
    assert 0 <= metrics["val"]["mean_iou"] <= 1
    assert metrics["seeds"]["images"] == 6
    assert len(metrics["cam_curve"]["curve"]) == 19
    assert content["settings"]["segmenter"]["head"]["width"] == 16
    assert content["runtime"]["seed"] == 0
    masks = folder / content["masks"]
    for sample in ("shape_06", "shape_07", "shape_08"):
        mask = read_mask(masks / f"{sample}.png")
        assert mask.shape == np.asarray(Image.open(home / "data" / "JPEGImages" / f"{sample}.png")).shape[:2]
        assert set(np.unique(mask)) <= {0, 1, 2}
    for name in ("train.jpg", "val.jpg", "threshold_curve.png"):
        assert Image.open(folder / "pictures" / name).size[0] > 100
    assert "mIoU" in (folder / "summary.md").read_text()


def test_a_second_run_makes_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (home / "ws" / "stages").rglob("*") if path.is_file()}
    assert main(words(home, "--bound", "true")) == 0
    after = {path: path.stat().st_mtime_ns for path in (home / "ws" / "stages").rglob("*") if path.is_file()}
    assert after == before
    assert "already there" in capsys.readouterr().err


def test_supervised_shares_its_stages_with_the_bound(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {key: TINY[key] for key in ("segmenter", "prediction")}
    (home / "bound.yaml").write_text(yaml.safe_dump(settings))
    arguments = words(home, method="supervised")
    arguments[arguments.index("--config") + 1] = str(home / "bound.yaml")
    assert main(arguments) == 0
    said = capsys.readouterr().err
    assert said.count("already there") == 5
    (folder,) = (home / "ws" / "runs").glob("supervised-*")
    bound = json.loads((folder / "run.json").read_text())["metrics"]["val"]
    assert bound == json.loads((run_folder(home) / "run.json").read_text())["metrics"]["bound_val"]


def test_a_changed_late_setting_keeps_the_early_stages(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = words(home, "--seeds.foreground_threshold", "0.3", "--pictures", "0", "--dry_run")
    assert main(changed) == 0
    lines = {line.split("-")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "cached" in lines["classifier"]
    assert "cached" in lines["cams"]
    assert "to do" in lines["seeds"]
    assert "to do" in lines["segmenter"]
    assert "cached" in lines["frozen_features"]
    assert lines.popitem()[0].startswith("in all, roughly")


def test_dry_run_writes_nothing_and_estimates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shapes(tmp_path / "data")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    assert main(words(tmp_path, "--dry_run")) == 0
    out = capsys.readouterr().out
    assert out.count("to do") == 12
    assert "in all, roughly" in out
    assert not (tmp_path / "ws").exists()


def test_evaluation_opens_masks(tmp_path: Path) -> None:
    write_shapes(tmp_path / "data")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    for mask in (tmp_path / "data" / "SegmentationClass").iterdir():
        mask.write_bytes(b"unreadable")
    with pytest.raises(DataError, match="shape_00"):
        run_configuration(configured(tmp_path), Reporter(quiet=True))


def test_val_tags_do_not_change_val_masks(home: Path, tmp_path: Path) -> None:
    write_shapes(tmp_path / "data")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    table = tmp_path / "data" / "tags.csv"
    rows = list(csv.reader(table.open()))
    val = set((tmp_path / "data/ImageSets/Segmentation/val.txt").read_text().split())
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([path, "" if Path(path).stem in val else label] for path, label in rows)
    result = run_configuration(configured(tmp_path, pictures=0), Reporter(quiet=True))
    before = json.loads((run_folder(home) / "run.json").read_text())["metrics"]
    assert result.metrics["val"] == before["val"]
    assert result.metrics["classifier"] != before["classifier"]


def test_python_verb_and_command_come_to_the_same(home: Path) -> None:
    result = tag2mask.run(
        "cam", home / "data", workspace=home / "ws", config=home / "tiny.yaml", threads=1, bound=True, quiet=True
    )
    assert result.folder == run_folder(home)
    assert result.model.is_file()
    assert [path.name for path in result.pictures][:2] == ["train.jpg", "val.jpg"]


def test_photographs_and_a_table_without_masks_or_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shapes = write_shapes(tmp_path / "shapes", train=12, val=0)
    data = tmp_path / "data"
    data.mkdir()
    rows = list(csv.reader((shapes / "tags.csv").open()))
    with (data / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[Path(path).name if "/" in path else path, label] for path, label in rows])
    for image in (shapes / "JPEGImages").iterdir():
        image.rename(data / image.name)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    assert main(words(tmp_path, "--hold_out", "0.2")) == 0
    captured = capsys.readouterr()
    assert "no truth" in captured.err
    content = json.loads((run_folder(tmp_path) / "run.json").read_text())
    assert "mAP" in captured.out
    made = list((tmp_path / "ws" / "stages").glob("predictions-*/items/*.png"))
    assert len(made) == 12  # held out or not, every tagged photograph has its mask
    assert "val" not in content["metrics"]


def test_reduced_precision(tmp_path: Path) -> None:
    write_shapes(tmp_path / "data")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    result = run_configuration(configured(tmp_path, precision="bf16-mixed", pictures=0), Reporter(quiet=True))
    assert 0 <= result.metrics["val"]["mean_iou"] <= 1


def test_data_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a method the default one runs; here with a file of tiny settings in place of its preset."""
    write_shapes(tmp_path / "data", masks=False)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY_OF[DEFAULT_METHOD]))
    places = ["--data", str(tmp_path / "data"), "--workspace", str(tmp_path / "ws")]
    assert main(["run", *places, "--config", str(tmp_path / "tiny.yaml"), "--threads", "1", "--device", "cpu"]) == 0
    told = capsys.readouterr()
    assert f"method {DEFAULT_METHOD} (the default)" in told.err
    (folder,) = (tmp_path / "ws" / "runs").iterdir()
    assert folder.name.startswith(f"{DEFAULT_METHOD}-")
    assert len(list((folder / "masks").iterdir())) == 3
    assert main(["run", *places, "--dry-run", "--device", "cpu"]) == 0
    told = capsys.readouterr()
    assert f"preset small/{DEFAULT_METHOD} (device cpu)" in told.err
    assert "to do" in told.out
