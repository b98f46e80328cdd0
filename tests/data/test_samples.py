from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest

from tag2mask.data.classes import MAX_CLASSES
from tag2mask.data.masks import MaskFile
from tag2mask.data.samples import Dataset, Sample, Split, check_id
from tag2mask.errors import DataError


def sample(name: str, *tags: int, mask: MaskFile | None = None, suffix: str = ".jpg") -> Sample:
    return Sample(name, Path(name + suffix), tags, mask)


def dataset(*train: Sample, val: Split | None = None, classes: tuple[str, ...] = ("cat", "dog", "eel")) -> Dataset:
    return Dataset(Path("root"), classes, Split("train", train), val)


@pytest.mark.parametrize("name", ["2007_000032", "a/b/c", "with space", "dots.in.name", "ümlaut", "..a"])
def test_check_id_takes_relative_paths(name: str) -> None:
    assert check_id(name) == name


@pytest.mark.parametrize("name", ["", "/a", "../a", "a/../b", "a/..", ".", "./a", "a//b", "a/", "a\\b", "C:/a"])
def test_check_id_refuses_what_could_leave_its_folder(name: str) -> None:
    with pytest.raises(DataError, match="cannot be the id"):
        sample(name)


@pytest.mark.parametrize(("name", "shown"), [("a\nb", r"'a\nb'"), ("caf\udce9", r"'caf\udce9'")])
def test_check_id_refuses_what_is_no_text(name: str, shown: str) -> None:
    with pytest.raises(DataError) as caught:
        check_id(name)
    assert str(caught.value).startswith(f"{shown} cannot be the id of a photograph: its name has control characters")
    assert ".." not in str(caught.value)


@pytest.mark.parametrize("tags", [(2, 1), (1, 1), (0,), (-1, 2)])
def test_tags_are_ascending_foreground_ids(tags: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"a\.jpg"):
        sample("a", *tags)


def test_a_sample_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        sample("a").id = "b"  # type: ignore[misc]


def test_doubled_ids_are_named() -> None:
    with pytest.raises(DataError, match=r"'a': a\.jpg and a\.png"):
        Split("train", (sample("a"), sample("b"), sample("a", suffix=".png")))


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(DataError, match="'train' names no photograph"):
        Split("train", ())


def test_split_is_a_list_with_look_up() -> None:
    split = Split("train", (sample("b"), sample("a")))
    assert len(split) == 2
    assert [s.id for s in split] == list(split.by_id) == ["b", "a"]
    assert split.by_id["a"] is split.samples[1]


def test_same_photograph_in_both_splits_is_fine_another_one_is_not() -> None:
    both = dataset(sample("a"), val=Split("val", (sample("a"),)))
    assert both.val is not None
    with pytest.raises(DataError, match=r"'a': a\.jpg and a\.png"):
        dataset(sample("a"), val=Split("val", (sample("a", suffix=".png"),)))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ((), "no class is named"),
        (("cat", "cat"), "'cat' is empty or there twice"),
        (("cat", ""), "'' is empty"),
        (("Background", "cat"), "class 0 already"),
        (tuple(f"c{i}" for i in range(MAX_CLASSES)), "one byte per pixel"),
    ],
)
def test_class_names_are_checked(classes: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        dataset(sample("a"), classes=classes)


def test_as_many_classes_as_fit_into_a_byte() -> None:
    assert dataset(sample("a"), classes=tuple(f"c{i}" for i in range(MAX_CLASSES - 1))).num_classes == MAX_CLASSES - 1


def test_a_tag_beyond_the_classes_is_refused() -> None:
    with pytest.raises(DataError, match=r"b\.jpg: tag 4"):
        dataset(sample("a"), val=Split("val", (sample("b", 1, 4),)))


def test_dataset_helpers() -> None:
    data = dataset(sample("a", 1, 3), sample("b"), val=Split("val", (sample("c", 2),)))
    assert data.num_classes == 3
    assert data.label_names == ("background", "cat", "dog", "eel")
    assert [split.name for split in data.splits] == ["train", "val"]
    assert data.sample("c").tags == (2,)
    assert data.sample("a").tags == (1, 3)
    with pytest.raises(DataError, match="no photograph has the id 'd'"):
        data.sample("d")
    assert data.tag_vector(data.sample("a")).dtype == np.float32
    assert data.tag_vector(data.sample("a")).tolist() == [1, 0, 1]
    assert data.tag_vector(data.sample("b")).tolist() == [0, 0, 0]


def test_without_masks_forgets_all_masks_and_nothing_else() -> None:
    masked = sample("a", 1, mask=MaskFile(Path("a.png")))
    data = dataset(masked, val=Split("val", (sample("b", 2, mask=MaskFile(Path("b.png"))),)))
    bare = data.without_masks()
    assert bare.val is not None
    assert all(s.mask is None for split in bare.splits for s in split)
    assert bare.sample("a") == sample("a", 1)
    assert (bare.classes, bare.root, bare.val.name) == (data.classes, data.root, "val")
    assert masked.mask is not None
    assert dataset(masked).without_masks().val is None
