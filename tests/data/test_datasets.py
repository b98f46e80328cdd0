from pathlib import Path

import pytest
from PIL import Image

from tag2mask.data.csv_folder import read_csv_folder
from tag2mask.data.datasets import open_dataset
from tag2mask.data.voc import read_voc
from tag2mask.errors import DataError, SettingsError

TABLE = "image_path,label\nJPEGImages/a.jpg,dog\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    (root / "JPEGImages").mkdir(parents=True)
    Image.new("RGB", (2, 2)).save(root / "JPEGImages/a.jpg")
    (root / "tags.csv").write_text(TABLE)
    return root


def add_lists(root: Path) -> None:
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/train.txt").write_text("a\n")


def test_a_table_alone_is_a_csv_folder(root: Path) -> None:
    assert open_dataset(root) == open_dataset(str(root), layout="csv") == read_csv_folder(root)
    assert open_dataset(root).train.samples[0].id == "JPEGImages/a"


def test_lists_make_it_vocs_layout(root: Path) -> None:
    add_lists(root)
    assert open_dataset(root) == open_dataset(root.parent, layout="voc") == read_voc(root)
    assert open_dataset(root).train.samples[0].id == "a"
    assert open_dataset(root, layout="csv") == read_csv_folder(root)


def test_options_reach_the_readers(root: Path) -> None:
    add_lists(root)
    (root / "ImageSets/Segmentation/some.txt").write_text("a\n")
    (root / "other.csv").write_text("image_path,label\nJPEGImages/a.jpg,ape\n")
    (root / "held.csv").write_text("image_path,label\nheld/b.jpg,ape\n")
    (root / "held").mkdir()
    Image.new("RGB", (2, 2)).save(root / "held/b.jpg")
    data = open_dataset(root, train_list="some", val_list="train", labels_csv="other.csv")
    assert [split.name for split in data.splits] == ["some", "train"]
    assert data.classes == ("ape",)
    assert open_dataset(root, layout="csv", labels_csv="other.csv").classes == ("ape",)
    assert open_dataset(root, layout="csv", val_csv="held.csv", labels_csv="tags.csv").val is not None
    with pytest.raises(SettingsError, match="val_csv"):
        open_dataset(root, val_csv="held.csv")


def test_a_table_elsewhere(root: Path, tmp_path: Path) -> None:
    (root / "tags.csv").rename(tmp_path / "elsewhere.csv")
    assert open_dataset(root, labels_csv=tmp_path / "elsewhere.csv").classes == ("dog",)


def test_what_was_looked_for_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it is empty"):
        open_dataset(tmp_path)
    (tmp_path / "a.txt").touch()
    with pytest.raises(DataError, match=r"JPEGImages and ImageSets.*CSV file.*neither is there"):
        open_dataset(tmp_path)
    with pytest.raises(DataError, match="there is no such folder"):
        open_dataset(tmp_path / "gone")
    with pytest.raises(DataError, match="a file, but a folder is expected"):
        open_dataset(tmp_path / "a.txt")
    with pytest.raises(SettingsError, match="unknown layout 'coco'; choices: auto, voc, csv"):
        open_dataset(tmp_path, layout="coco")  # type: ignore[arg-type]


def test_real_photographs(shared_data: Path) -> None:
    data = open_dataset(shared_data / "voc12-small", train_list="train_2007")
    assert data.num_classes == 20
    assert data.without_masks().sample("2007_000032").mask is None
