import csv
import errno
import itertools
import json
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from tag2mask.data.classes import UNLABELLED
from tag2mask.data.convert import Target, convert_data
from tag2mask.data.datasets import open_dataset
from tag2mask.data.images import content_digest, image_size
from tag2mask.data.masks import read_mask, write_mask
from tag2mask.data.samples import Dataset
from tag2mask.errors import DataError, SettingsError
from tests.builders import file_bytes, write_shapes

CLASSES = ("zebra", "red car")  # not in alphabetical order
LAYOUTS: tuple[Target, ...] = ("csv", "one-hot", "voc", "npy", "coco", "folders")
NPY = {"labels_npy": "cls_labels.npy", "allow_pickle": True}

Row = tuple[str, str, str]

MANY_TAGS: tuple[Row, ...] = (
    ("beach/a.jpg", "zebra", "train"),
    ("beach/IMG 0001.JPG", "zebra,red car", "train"),
    ("Küste 2/b c.tar.png", "red car", "train"),
    ("empty.webp", "", "train"),
    ("val/a.jpeg", "red car,zebra", "val"),
    ("ü.bmp", "", "val"),
)
ONE_TAG: tuple[Row, ...] = tuple((path, labels.partition(",")[0], split) for path, labels, split in MANY_TAGS)


def write_data(root: Path, rows: Sequence[Row], *, masks: bool) -> Path:
    """A folder with a table; every photograph is another one. Masks show the tags, and unlabelled pixels at them."""
    rng = np.random.default_rng(3)
    table = [("image_path", "label", "split", "mask_path")]
    for index, (path, labels, split) in enumerate(rows):
        height, width = 12 + index, 20
        photograph = root / path
        photograph.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(photograph)
        mask_path = f"truth/{index}.png" if masks else ""
        if masks:
            mask = np.zeros((height, width), dtype=np.uint8)
            for label in filter(None, labels.split(",")):
                mask[rng.random(mask.shape) < 0.3] = CLASSES.index(label) + 1
            if labels:
                mask[rng.random(mask.shape) < 0.1] = UNLABELLED
            (root / "truth").mkdir(exist_ok=True)
            write_mask(root / mask_path, mask)
        table.append((path, labels, split, mask_path))
    with (root / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(table)
    (root / "classes.txt").write_text("\n".join(CLASSES), encoding="utf-8")
    return root


def reading(layout: str) -> dict[str, Any]:
    return NPY if layout == "npy" else {}


def photographs(dataset: Dataset) -> dict[tuple[int, str], tuple[str, tuple[int, ...], bytes | None]]:
    """Id, tags and mask of every photograph, by list and content."""
    return {
        (number, content_digest(sample.image)): (
            sample.id,
            sample.tags,
            None if sample.mask is None else sample.mask.read().tobytes(),
        )
        for number, split in enumerate(dataset.splits)
        for sample in split
    }


def assert_same(copy: Dataset, original: Dataset, *, empty_masks: bool) -> None:
    """The same photographs, tags, classes, lists and masks; ids may have a prefix.

    With `empty_masks` a photograph without tags and mask may have got an empty mask.
    """
    assert copy.classes == original.classes
    assert len(copy.splits) == len(original.splits)
    found, expected = photographs(copy), photographs(original)
    assert found.keys() == expected.keys()
    for key, (sample_id, tags, mask) in expected.items():
        new_id, new_tags, new_mask = found[key]
        assert new_id == sample_id or new_id.endswith(f"/{sample_id}")
        assert new_tags == tags
        if empty_masks and mask is None and not tags:
            assert not any(new_mask or b"")
        else:
            assert new_mask == mask


@pytest.mark.parametrize(("first", "second"), [*itertools.product(LAYOUTS, LAYOUTS)])
def test_there_and_on(first: Target, second: Target, tmp_path: Path) -> None:
    plain = "folders" in (first, second)
    source = write_data(tmp_path / "source", ONE_TAG if plain else MANY_TAGS, masks=not plain)
    original = open_dataset(source)
    assert convert_data(source, tmp_path / "first", first) == tmp_path / "first"
    copy = open_dataset(tmp_path / "first", **reading(first))
    assert_same(copy, original, empty_masks=first == "coco")
    said: list[str] = []
    convert_data(tmp_path / "first", tmp_path / "second", second, say=said.append, **reading(first))
    copy = open_dataset(tmp_path / "second", **reading(second))
    assert_same(copy, original, empty_masks="coco" in (first, second))
    # What says "nothing there" in COCO is a mask, which folders cannot hold.
    assert bool(said) == ({first, second} == {"coco", "folders"})
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("to", ["csv", "one-hot", "voc", "npy", "coco"])
def test_ids_stay(to: Target, tmp_path: Path) -> None:
    source = write_data(tmp_path / "source", MANY_TAGS, masks=True)
    convert_data(source, tmp_path / "copy", to)
    copy, original = open_dataset(tmp_path / "copy", **reading(to)), open_dataset(source)
    assert [[sample.id for sample in split] for split in copy.splits] == [
        [sample.id for sample in split] for split in original.splits
    ]


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


@pytest.mark.parametrize("to", LAYOUTS)
def test_without_a_val_list(to: Target, tmp_path: Path) -> None:
    rows = tuple((path, labels, "train") for path, labels, _ in ONE_TAG)
    source = write_data(tmp_path / "source", rows, masks=False)
    convert_data(source, tmp_path / "copy", to)
    assert open_dataset(tmp_path / "copy", **reading(to)).val is None


def test_a_list_of_another_name(tmp_path: Path) -> None:
    source = write_shapes(tmp_path / "source")
    (source / "ImageSets/Segmentation/few.txt").write_text("shape_02\nshape_03\n")
    convert_data(source, tmp_path / "copy", "voc", train_list="few", val_list=None)
    copy = open_dataset(tmp_path / "copy")
    assert [sample.id for sample in copy.train] == ["shape_02", "shape_03"]
    assert copy.val is None


def test_the_same_photograph_on_both_lists(tmp_path: Path) -> None:
    source = write_shapes(tmp_path / "source")
    (source / "ImageSets/Segmentation/val.txt").write_text("shape_01\nshape_08\n")
    to: Target
    for to in ("csv", "one-hot", "voc", "npy", "coco"):
        convert_data(source, tmp_path / to, to)
        assert_same(open_dataset(tmp_path / to, **reading(to)), open_dataset(source), empty_masks=False)
    with pytest.raises(DataError, match=r"as folders: 1 of 7 photographs are on both lists.*shape_01\.png"):
        convert_data(source, tmp_path / "folders", "folders")
    assert not (tmp_path / "folders").exists()


def test_regions_wait_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tuple((f"{number}.png", "zebra,red car", "train") for number in range(40))
    source = write_data(tmp_path / "source", rows, masks=True)
    encoded: list[bool] = []

    def region(inside: Any, label: int, *, crowd: bool) -> dict[str, Any]:
        encoded.append(crowd)
        return {"category_id": label, "segmentation": {"size": list(inside.shape), "counts": "x" * 100_000}}

    monkeypatch.setattr("tag2mask.data.convert._region", region)
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


def test_a_mask_of_a_wrong_size_is_never_drawn(tmp_path: Path) -> None:
    source = convert_data(write_data(tmp_path / "source", MANY_TAGS, masks=True), tmp_path / "wrong", "coco")
    path = source / "annotations/instances_train.json"
    path.write_text(path.read_text().replace('"height": 15, "width": 20', '"height": 200000, "width": 200000'))
    to: Target
    for to in ("csv", "coco"):
        with pytest.raises(DataError, match=r"image empty\.webp: 200000x200000, but its photograph .*empty\.webp has"):
            convert_data(source, tmp_path / to, to)


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


def test_turned_photographs_keep_bytes_and_masks_fit_what_is_shown(tmp_path: Path) -> None:
    source = write_data(tmp_path / "source", MANY_TAGS, masks=True)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    photograph = source / "beach/a.jpg"
    Image.new("RGB", (12, 20)).save(photograph, exif=exif)
    assert image_size(photograph) == (12, 20)
    convert_data(source, tmp_path / "copy", "coco")
    assert_same(open_dataset(tmp_path / "copy"), open_dataset(source), empty_masks=False)


def test_links_take_no_room(tmp_path: Path) -> None:
    source = write_data(tmp_path / "source", MANY_TAGS, masks=True)
    said: list[str] = []
    root = convert_data(source, tmp_path / "copy", "voc", link=True, say=said.append)
    assert (root / "JPEGImages/beach/a.jpg").samefile(source / "beach/a.jpg")
    assert said == []
    root = convert_data(source, tmp_path / "apart", "voc")
    assert not (root / "JPEGImages/beach/a.jpg").samefile(source / "beach/a.jpg")


def test_links_across_file_systems_are_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    source = write_data(tmp_path / "source", MANY_TAGS, masks=True)
    said: list[str] = []
    root = convert_data(source, tmp_path / "copy", "voc", link=True, say=said.append)
    assert (root / "JPEGImages/beach/a.jpg").read_bytes() == (source / "beach/a.jpg").read_bytes()
    assert said == ["hard links cannot be made there: photographs were copied"]


def test_progress(tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    source = write_data(tmp_path / "source", MANY_TAGS, masks=True)
    convert_data(source, tmp_path / "copy", "csv", progress=lambda *step: done.append(step))
    assert done == [(number, 6) for number in range(1, 7)]


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


def test_a_class_that_would_be_taken_for_another_column(tmp_path: Path) -> None:
    source = write_data(tmp_path / "source", ONE_TAG, masks=False)
    table = (source / "labels.csv").read_text(encoding="utf-8")
    (source / "labels.csv").write_text(table.replace("red car", "tags"), encoding="utf-8")
    (source / "classes.txt").write_text("zebra\ntags\n")
    with pytest.raises(DataError, match=r"cannot be written as one-hot"):
        convert_data(source, tmp_path / "copy", "one-hot")
    assert not (tmp_path / "copy").exists()


def test_a_class_name_that_a_list_of_names_does_not_keep(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("zebra ", "yak"):
        (source / name).mkdir(parents=True)
        Image.new("RGB", (4, 4), "red").save(source / name / "a.png")
    with pytest.raises(DataError, match="cannot be written as csv: the class names would be read otherwise"):
        convert_data(source, tmp_path / "copy", "csv")


def test_two_files_that_would_become_one(tmp_path: Path) -> None:
    rows = (("truth/a.png", "zebra", "train"), ("masks/a.png", "red car", "train"), ("a.jpg", "", "train"))
    source = write_data(tmp_path / "source", rows, masks=True)
    with pytest.raises(DataError, match=r"a\.png"):
        convert_data(source, tmp_path / "copy", "csv")


def test_bad_masks(tmp_path: Path) -> None:
    source = write_data(tmp_path / "source", ONE_TAG, masks=True)
    write_mask(source / "truth/0.png", np.full((12, 20), 7, dtype=np.uint8))
    with pytest.raises(DataError, match=r"0\.png: 7 among the ids, but the last class is 2"):
        convert_data(source, tmp_path / "copy", "csv")
    write_mask(source / "truth/0.png", np.ones((20, 12), dtype=np.uint8))
    with pytest.raises(DataError, match=r"0\.png: 12x20, but its photograph .*a\.jpg has 20x12"):
        convert_data(source, tmp_path / "copy", "coco")
    assert not (tmp_path / "copy").exists()


def test_a_target_that_is_there(tmp_path: Path) -> None:
    source = write_data(tmp_path / "source", ONE_TAG, masks=False)
    target = tmp_path / "target"
    target.mkdir()
    convert_data(source, target, "csv")
    before = file_bytes(target)
    with pytest.raises(DataError, match=r"target: holds other files \(.*\); a new or empty folder"):
        convert_data(source, target, "voc")
    assert file_bytes(target) == before
    with pytest.raises(DataError, match=r"labels\.csv: is a file"):
        convert_data(source, target / "labels.csv", "voc")
    with pytest.raises(DataError, match="lies in"):
        convert_data(source, source / "copy", "voc")
    with pytest.raises(SettingsError, match="unknown layout to write 'yolo'; choices: csv, one-hot"):
        convert_data(source, tmp_path / "copy", "yolo")  # type: ignore[arg-type]


def test_what_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    source = write_data(tmp_path / "source", ONE_TAG, masks=True)
    (source / "truth/5.png").write_bytes(b"no mask")
    target = tmp_path / "target"
    target.mkdir()
    for folder in (target, tmp_path / "new"):
        with pytest.raises(DataError, match=r"5\.png"):
            convert_data(source, folder, "voc")
    assert list(target.iterdir()) == []
    assert not (tmp_path / "new").exists()


def test_what_was_killed_is_no_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_data(tmp_path / "source", ONE_TAG, masks=False)
    monkeypatch.setattr("tag2mask.data.convert.shutil.rmtree", lambda *arguments, **options: None)

    def kill(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    for to in LAYOUTS:
        with pytest.raises(KeyboardInterrupt):
            convert_data(source, tmp_path / to, to, progress=kill)
        with pytest.raises(DataError, match="no data set"):
            open_dataset(tmp_path / to)
        with pytest.raises(DataError, match="interrupted conversion"):
            convert_data(source, tmp_path / to, to)
