"""`predict` and `evaluate` with a trained model."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import tag2mask
from tag2mask.cli import main
from tag2mask.data.masks import read_mask
from tag2mask.errors import DataError, WeightsError
from tests.builders import TINY, write_shapes


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    write_shapes(folder / "data")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    result = tag2mask.run(
        "cam", folder / "data", workspace=folder / "ws", config=folder / "tiny.yaml", threads=1, pictures=0, quiet=True
    )
    result.model.rename(folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("threads", ["1", "3"])
def test_a_folder_gives_what_the_run_gave(
    home: Path, tmp_path: Path, threads: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs = home / "data" / "JPEGImages"
    arguments = ["predict", str(home / "model.safetensors"), str(photographs), "--out", str(tmp_path)]
    assert main([*arguments, "--threads", threads]) == 0
    assert "9 masks" in capsys.readouterr().out
    for path in (home / "ws" / "stages").glob("predictions-*/items/*.png"):
        assert (tmp_path / "masks" / path.name).read_bytes() == path.read_bytes()
    for path in photographs.iterdir():
        assert Image.open(tmp_path / "overlays" / f"{path.stem}.jpg").size == Image.open(path).size


def test_tags_restrict_masks(home: Path, tmp_path: Path) -> None:
    (tmp_path / "tags.csv").write_text("image_path,label\nshape_00.png,disc\nshape_01.png,\n")
    files = [home / "data" / "JPEGImages" / f"shape_0{index}.png" for index in (0, 1)]
    written = tag2mask.predict(
        home / "model.safetensors", files, tmp_path / "out", tags=tmp_path / "tags.csv", quiet=True, use_crf=False
    )
    assert set(np.unique(read_mask(written[0].mask))) <= {0, 1}
    assert not read_mask(written[1].mask).any()


@pytest.mark.parametrize(
    ("table", "message"),
    [("image_path,label\nother.png,disc\n", "no row"), ("image_path,label\nshape_00.png,cat\n", "disc, square")],
)
def test_a_table_that_does_not_fit_is_an_error(home: Path, tmp_path: Path, table: str, message: str) -> None:
    (tmp_path / "tags.csv").write_text(table)
    photograph = home / "data" / "JPEGImages" / "shape_00.png"
    with pytest.raises(DataError, match=message):
        tag2mask.predict(home / "model.safetensors", photograph, tmp_path, tags=tmp_path / "tags.csv", quiet=True)


def test_photographs_of_any_size(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, size in (("dot", (1, 1)), ("line", (200, 1)), ("large", (2400, 1800))):
        Image.new("RGB", size, (220, 60, 40)).save(tmp_path / f"{name}.png")
    written = tag2mask.predict(home / "model.safetensors", tmp_path, tmp_path / "out")
    assert "large.png: 2400x1800 was segmented at 2000000 pixels" in capsys.readouterr().err
    for item in written:
        width, height = Image.open(item.photograph).size
        assert read_mask(item.mask).shape == (height, width)
        assert Image.open(item.overlay).size == (width, height)


def test_two_photographs_of_one_name(home: Path, tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    with pytest.raises(DataError, match=r"a\.png"):
        tag2mask.predict(home / "model.safetensors", tmp_path, tmp_path / "out", quiet=True)


def test_what_is_no_model(home: Path, tmp_path: Path) -> None:
    whole = (home / "model.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (classifier,) = (home / "ws" / "stages").glob("classifier-*/model.safetensors")
    for path, message in (
        (tmp_path / "cut.safetensors", "not a whole model"),
        (tmp_path / "missing", "no such model"),
        (classifier, "makes no masks"),
    ):
        with pytest.raises(WeightsError, match=message):
            tag2mask.predict(path, home / "data", tmp_path / "out", quiet=True)


def test_evaluate_scores_folders(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = str(home / "data" / "SegmentationClass")
    classes = str(home / "data" / "classes.txt")
    assert main(["evaluate", truth, truth, "--classes", classes, "--json", str(tmp_path / "scores.json")]) == 0
    out = capsys.readouterr().out
    assert "disc" in out
    assert "100.0" in out
    assert '"mean_iou": 1.0' in (tmp_path / "scores.json").read_text()
    assert tag2mask.evaluate(truth, truth).mean_iou == 1.0


def test_evaluate_a_list(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (predictions,) = (home / "ws" / "stages").glob("predictions-*/items")
    truth, listed = home / "data" / "SegmentationClass", home / "data" / "ImageSets" / "Segmentation" / "val.txt"
    assert main(["evaluate", str(predictions), str(truth)]) == 2
    assert "no prediction for 6 of 9" in capsys.readouterr().err
    assert main(["evaluate", str(predictions), str(truth), "--list", str(listed)]) == 0
