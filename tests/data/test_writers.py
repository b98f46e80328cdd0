import json
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tag2mask.data.classes import UNLABELLED
from tag2mask.data.convert import convert_data
from tag2mask.data.datasets import open_dataset
from tag2mask.data.masks import read_mask, write_mask
from tag2mask.errors import DataError
from tests.data.conversions import LAYOUTS, MANY_TAGS, ONE_TAG, assert_same, reading, write_data


def test_vocs_layout_is_what_other_programs_expect(tmp_path: Path) -> None:
    source = write_data(tmp_path / "source", MANY_TAGS, masks=True)
    root = convert_data(source, tmp_path / "copy", "voc")
    assert (root / "ImageSets/Segmentation/train.txt").read_text(encoding="utf-8").splitlines() == [
        "beach/a",
        "beach/IMG 0001",
        "Küste 2/b c.tar",
        "empty",
    ]
    assert (root / "tags.csv").read_text(encoding="utf-8").splitlines()[:3] == [
        "image_path,label",
        "JPEGImages/beach/a.jpg,zebra",
        'JPEGImages/beach/IMG 0001.JPG,"zebra,red car"',
    ]
    assert (root / "SegmentationClass/beach/a.png").is_file()
    assert (root / "classes.txt").read_text() == "zebra\nred car\n"


def test_a_table_with_a_column_per_class(tmp_path: Path) -> None:
    source = write_data(tmp_path / "source", ONE_TAG, masks=False)
    root = convert_data(source, tmp_path / "copy", "one-hot")
    assert (root / "labels.csv").read_text(encoding="utf-8").splitlines()[:2] == [
        "image_path,zebra,red car,mask_path,split",
        "beach/a.jpg,1,0,,train",
    ]


def test_folders(tmp_path: Path) -> None:
    source = write_data(tmp_path / "source", ONE_TAG, masks=False)
    root = convert_data(source, tmp_path / "copy", "folders")
    assert (root / "train/zebra/beach/a.jpg").is_file()
    assert (root / "val/background/ü.bmp").is_file()


def test_regions_wait_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tuple((f"{number}.png", "zebra,red car", "train") for number in range(40))
    source = write_data(tmp_path / "source", rows, masks=True)
    encoded: list[bool] = []

    def region(inside: Any, label: int, *, crowd: bool) -> dict[str, Any]:
        encoded.append(crowd)
        return {"category_id": label, "segmentation": {"size": list(inside.shape), "counts": "x" * 100_000}}

    monkeypatch.setattr("tag2mask.data.writers._region", region)
    monkeypatch.setattr("tag2mask.data.convert._check_copy", lambda writer: None)
    tracemalloc.start()
    convert_data(source, tmp_path / "copy", "coco")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6_000_000  # all regions are 16 million bytes, those of a photograph 400,000
    assert encoded.count(True) == 40  # once for a photograph, although it is written for each class
    annotations = (tmp_path / "copy/annotations/instances_train.json").read_text()
    assert [item["category_id"] for item in json.loads(annotations)["annotations"]] == [1, 2, 1, 2] * 40
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["annotations", "images"]


def test_coco_annotations(tmp_path: Path) -> None:
    root = convert_data(write_data(tmp_path / "source", MANY_TAGS, masks=True), tmp_path / "copy", "coco")
    content = json.loads((root / "annotations/instances_train.json").read_text(encoding="utf-8"))
    assert content["categories"] == [{"id": 1, "name": "zebra"}, {"id": 2, "name": "red car"}]
    assert content["images"][1] == {"id": 2, "file_name": "beach/IMG 0001.JPG", "height": 13, "width": 20}
    both = [item for item in content["annotations"] if item["image_id"] == 2]
    assert [(item["category_id"], item["iscrowd"]) for item in both] == [(1, 0), (2, 0), (1, 1), (2, 1)]
    truth = read_mask(tmp_path / "source/truth/1.png")
    assert [item["area"] for item in both] == [(truth == label).sum() for label in (1, 2, 255, 255)]
    ys, xs = np.nonzero(truth == 1)
    assert both[0]["bbox"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
    ids = [item["id"] for item in content["annotations"]]
    assert ids == list(range(1, len(ids) + 1))


def test_coco_says_what_it_cannot_hold(tmp_path: Path) -> None:
    source = write_data(tmp_path / "source", MANY_TAGS, masks=True)
    empty, tagged = np.zeros((15, 20), dtype=np.uint8), np.zeros((12, 20), dtype=np.uint8)
    empty[0, :7] = UNLABELLED
    tagged[:3], tagged[3:6] = 1, 2  # the tag is zebra alone
    write_mask(source / "truth/3.png", empty)
    write_mask(source / "truth/0.png", tagged)
    said: list[str] = []
    convert_data(source, tmp_path / "copy", "coco", say=said.append)
    assert len(said) == 2
    assert "of 1 photographs" in said[0]
    assert "7 unlabelled pixels" in said[1]
    first, *_, last = open_dataset(tmp_path / "copy").train
    assert first.tags == (1, 2)
    assert first.mask is not None
    assert np.array_equal(first.mask.read(), tagged)
    assert last.mask is not None
    assert not last.mask.read().any()


def test_coco_without_masks(tmp_path: Path) -> None:
    source = write_data(tmp_path / "source", MANY_TAGS, masks=False)
    said: list[str] = []
    convert_data(source, tmp_path / "copy", "coco", say=said.append)
    copy = open_dataset(tmp_path / "copy")
    assert_same(copy, open_dataset(source), empty_masks=True)
    assert [sample.mask is None for sample in copy.train] == [True, True, True, False]
    assert said == ["coco: 2 photographs without tags and masks are read as masks of background only"]


def test_masks_for_coco_need_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    source = write_data(tmp_path / "source", MANY_TAGS, masks=True)
    with pytest.raises(DataError, match=r"pip install 'tag2mask\[coco\]'"):
        convert_data(source, tmp_path / "copy", "coco")
    assert not (tmp_path / "copy").exists()


def test_coco_keeps_a_tag_that_the_mask_does_not_show(tmp_path: Path) -> None:
    source = write_data(tmp_path / "source", MANY_TAGS, masks=True)
    write_mask(source / "truth/0.png", np.zeros((12, 20), dtype=np.uint8))
    said: list[str] = []
    convert_data(source, tmp_path / "copy", "coco", say=said.append)
    assert_same(open_dataset(tmp_path / "copy"), open_dataset(source), empty_masks=False)
    assert said == []


def test_a_class_name_with_separators_goes_by_its_number(tmp_path: Path) -> None:
    source = write_data(tmp_path / "source", ONE_TAG, masks=False)
    table = (source / "labels.csv").read_text(encoding="utf-8")
    (source / "labels.csv").write_text(table.replace("red car", "2"), encoding="utf-8")
    (source / "classes.txt").write_text("zebra\ncar, red; or so\n")
    original = open_dataset(source)
    for to in LAYOUTS:
        convert_data(source, tmp_path / to, to)
        assert_same(open_dataset(tmp_path / to, **reading(to)), original, empty_masks=True)


def test_several_tags_do_not_fit_into_folders(tmp_path: Path) -> None:
    source = write_data(tmp_path / "source", MANY_TAGS, masks=False)
    with pytest.raises(DataError, match=r"2 of 6 photographs have several tags.*IMG 0001\.JPG"):
        convert_data(source, tmp_path / "copy", "folders")
    assert not (tmp_path / "copy").exists()


def test_masks_do_not_fit_into_folders(tmp_path: Path) -> None:
    said: list[str] = []
    source = write_data(tmp_path / "source", ONE_TAG, masks=True)
    root = convert_data(source, tmp_path / "copy", "folders", say=said.append)
    assert "6 true masks are left out" in said[0]
    assert all(sample.mask is None for split in open_dataset(root).splits for sample in split)


@pytest.mark.parametrize("name", ["either/or", ".hidden"])
def test_class_names_that_are_no_folder(name: str, tmp_path: Path) -> None:
    source = write_data(tmp_path / "source", ONE_TAG, masks=False)
    table = (source / "labels.csv").read_text(encoding="utf-8")
    (source / "labels.csv").write_text(table.replace("red car", name), encoding="utf-8")
    (source / "classes.txt").write_text(f"zebra\n{name}\n")
    with pytest.raises(DataError, match=f"class '{name}'"):
        convert_data(source, tmp_path / "copy", "folders")


def test_a_suffix_that_is_not_looked_for(tmp_path: Path) -> None:
    source = write_data(tmp_path / "source", ONE_TAG, masks=False)
    (source / "empty.webp").rename(source / "empty.heic")
    table = (source / "labels.csv").read_text(encoding="utf-8")
    (source / "labels.csv").write_text(table.replace("empty.webp", "empty.heic"), encoding="utf-8")
    with pytest.raises(DataError, match=r"1 of 6 photographs have a name.*empty\.heic"):
        convert_data(source, tmp_path / "voc", "voc")
    convert_data(source, tmp_path / "csv", "csv")
    assert (tmp_path / "csv/empty.heic").is_file()
