import errno
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from tag2mask.data.convert import convert_data
from tag2mask.data.datasets import open_dataset
from tag2mask.data.images import image_size
from tag2mask.data.masks import write_mask
from tag2mask.data.writers import Target
from tag2mask.errors import DataError, SettingsError
from tests.builders import file_bytes, write_shapes
from tests.data.conversions import LAYOUTS, MANY_TAGS, ONE_TAG, assert_same, reading, write_data


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


def test_a_mask_of_a_wrong_size_is_never_drawn(tmp_path: Path) -> None:
    source = convert_data(write_data(tmp_path / "source", MANY_TAGS, masks=True), tmp_path / "wrong", "coco")
    path = source / "annotations/instances_train.json"
    path.write_text(path.read_text().replace('"height": 15, "width": 20', '"height": 200000, "width": 200000'))
    to: Target
    for to in ("csv", "coco"):
        with pytest.raises(DataError, match=r"image empty\.webp: 200000x200000, but its photograph .*empty\.webp has"):
            convert_data(source, tmp_path / to, to)


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
