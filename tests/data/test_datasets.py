import json
import re
from pathlib import Path

import pytest
from PIL import Image

from tag2mask.data.class_folders import read_class_folders
from tag2mask.data.cls_labels import write_cls_labels
from tag2mask.data.coco import read_coco
from tag2mask.data.csv_folder import read_csv_folder
from tag2mask.data.datasets import Layout, open_dataset
from tag2mask.data.problems import Problem
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


def write_coco(root: Path) -> None:
    image = {"id": 1, "file_name": "a.jpg"}
    annotation = {"id": 1, "image_id": 1, "category_id": 7}
    content = {"images": [image], "annotations": [annotation], "categories": [{"id": 7, "name": "emu"}]}
    (root / "instances.json").write_text(json.dumps(content))


def test_annotation_files_are_cocos_layout_unless_there_is_a_table(root: Path) -> None:
    write_coco(root)
    (root / "a.jpg").touch()
    assert open_dataset(root).layout == "csv"
    (root / "tags.csv").unlink()
    assert open_dataset(root) == open_dataset(root, layout="coco") == read_coco(root)
    data = open_dataset(root)
    assert (data.layout, data.classes) == ("coco", ("emu",))
    elsewhere = root.parent / "elsewhere.json"
    (root / "instances.json").rename(elsewhere)
    assert open_dataset(root, train_list=str(elsewhere)).layout == "coco"
    (root / "other.json").write_text("{}")
    with pytest.raises(DataError, match=r"no data set.*none of these is there"):
        open_dataset(root)


def test_class_folders_come_last(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").touch()
    assert open_dataset(tmp_path) == open_dataset(tmp_path, layout="folders") == read_class_folders(tmp_path)
    assert open_dataset(tmp_path).layout == "folders"
    (tmp_path / "b.jpg").touch()
    with pytest.raises(DataError, match="no data set"):
        open_dataset(tmp_path)
    with pytest.raises(DataError, match=r"b\.jpg: lies beside"):
        open_dataset(tmp_path, layout="folders")
    (tmp_path / "b.jpg").unlink()
    (tmp_path / "export.json").write_text("{}")
    with pytest.raises(DataError, match="no data set"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"export\.json: not proper JSON"),
        ('{"images": [{"id": 1, "file_na', r"export\.json: not proper JSON"),
        ('{"images": []}', r"export\.json: no instance annotations; .*missing: annotations, categories"),
    ],
)
@pytest.mark.parametrize("layout", ["auto", "coco"])
def test_what_is_wrong_with_the_only_json_file_is_told(tmp_path: Path, text: str, message: str, layout: Layout) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "export.json").write_text(text)
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path, layout=layout)


def test_many_json_files_of_another_kind_are_counted(tmp_path: Path) -> None:
    for index in range(5):
        (tmp_path / f"{index}.json").write_text("{}")
    write_coco(tmp_path)
    (tmp_path / "instances.json").rename(tmp_path / "val.json")
    with pytest.raises(DataError, match=r"0\.json: no instance annotations.*; 3 other JSON files$"):
        open_dataset(tmp_path)
    for index in range(5):
        (tmp_path / f"{index}.json").unlink()
    with pytest.raises(DataError, match=r"val\.json: by its name a list to measure on"):
        open_dataset(tmp_path)


def test_photographs_of_vocs_layout_without_lists_are_no_class(root: Path) -> None:
    (root / "tags.csv").unlink()
    with pytest.raises(DataError, match="no data set; looked for JPEGImages and ImageSets"):
        open_dataset(root)


@pytest.mark.parametrize(
    ("option", "layout"),
    [("val_csv", "voc"), ("val_csv", "coco"), ("labels_csv", "folders"), ("labels_npy", "csv"), ("labels_npy", "coco")],
)
def test_files_of_tags_that_the_layout_does_not_have(root: Path, option: str, layout: Layout) -> None:
    with pytest.raises(SettingsError, match=f"{option} is for the layout .*, but .*photos has the layout {layout}"):
        open_dataset(root, layout=layout, **{option: "held.csv"})  # type: ignore[arg-type]


def test_tag_vectors_reach_the_reader(root: Path) -> None:
    add_lists(root)
    data = read_voc(root)
    write_cls_labels(root / "cls_labels.npy", data)
    (root / "tags.csv").unlink()
    assert open_dataset(root, labels_npy="cls_labels.npy", allow_pickle=True) == data
    with pytest.raises(SettingsError, match="allow_pickle"):
        open_dataset(root, labels_npy="cls_labels.npy")


@pytest.mark.parametrize("layout", ["voc", "csv", "folders", "coco"])
def test_problems_reach_the_report(root: Path, layout: Layout) -> None:
    add_lists(root)
    write_coco(root)
    (root / "a.jpg").touch()
    (root / "ImageSets/Segmentation/train.txt").write_text("a\ngone\n")
    (root / "tags.csv").write_text(f"{TABLE}gone.jpg,\n")
    (root / "instances.json").write_text((root / "instances.json").read_text().replace("[{", '[{"id": 2}, {', 1))
    found: list[Problem] = []
    assert open_dataset(root, layout=layout, report=found.append).layout == layout
    assert {problem.kind for problem in found} <= {"missing-photograph", "stray-file", "empty-class", "bad-row"}
    with pytest.raises(DataError, match=re.escape(found[0].message)):
        open_dataset(root, layout=layout)


def test_a_table_elsewhere(root: Path, tmp_path: Path) -> None:
    (root / "tags.csv").rename(tmp_path / "elsewhere.csv")
    assert open_dataset(root, labels_csv=tmp_path / "elsewhere.csv").classes == ("dog",)


def test_what_was_looked_for_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it is empty"):
        open_dataset(tmp_path)
    (tmp_path / "a.txt").touch()
    with pytest.raises(DataError, match=r"JPEGImages and ImageSets.*CSV file.*instances_.*per class; none of these"):
        open_dataset(tmp_path)
    with pytest.raises(DataError, match="there is no such folder"):
        open_dataset(tmp_path / "gone")
    with pytest.raises(DataError, match="a file, but a folder is expected"):
        open_dataset(tmp_path / "a.txt")
    with pytest.raises(SettingsError, match="unknown layout 'yolo'; choices: auto, voc, csv, folders, coco"):
        open_dataset(tmp_path, layout="yolo")  # type: ignore[arg-type]


def test_real_photographs(shared_data: Path) -> None:
    data = open_dataset(shared_data / "voc12-small", train_list="train_2007")
    assert data.num_classes == 20
    assert data.without_masks().sample("2007_000032").mask is None
