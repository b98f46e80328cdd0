import json
from pathlib import Path
from typing import Any

import pytest

from tag2mask.data.coco import has_annotations, read_coco
from tag2mask.data.problems import Problem
from tag2mask.errors import DataError
from tests.data.coco_files import CATEGORIES, H, W, annotation, box, image, touch, write


def test_tags_and_classes(tmp_path: Path) -> None:
    touch(tmp_path, "train2017/001.jpg", "train2017/in/002.v1.png", "train2017/003.jpg", "val2017/004.jpg")
    write(
        tmp_path / "annotations/instances_train2017.json",
        [image(1), image(2, "in/002.v1.png"), image(3)],
        [annotation(9, 1, 90), annotation(7, 1, 18), annotation(8, 1, 90), annotation(5, 2, 3, iscrowd=1)],
    )
    write(tmp_path / "annotations/instances_val2017.json", [image(4)], [annotation(1, 4, 18)], CATEGORIES[::-1])
    write(tmp_path / "annotations/person_keypoints_train2017.json", [])
    data = read_coco(tmp_path)
    assert (data.classes, data.layout, data.root) == (("cat", "dog", "emu"), "coco", tmp_path)
    assert [(split.name, {s.id: s.tags for s in split}) for split in data.splits] == [
        ("train2017", {"001": (2, 3), "in/002.v1": (1,), "003": ()}),
        ("val2017", {"004": (2,)}),
    ]
    assert data.sample("in/002.v1").image == tmp_path / "train2017/in/002.v1.png"
    assert read_coco(tmp_path, train_list="train2017", val_list="val2017") == data
    assert read_coco(tmp_path, val_list=None).val is None
    by_path = read_coco(tmp_path, train_list="annotations/instances_train2017.json", val_list=None)
    assert by_path == read_coco(tmp_path, val_list=None)
    assert read_coco(tmp_path, train_list=str(tmp_path / "annotations/instances_val2017.json")).train.name == "val2017"


@pytest.mark.parametrize("place", ["", "images/", "train/", "images/train/", "annotations/"])
def test_where_photographs_are(tmp_path: Path, place: str) -> None:
    touch(tmp_path, f"{place}in/a.jpg")
    write(tmp_path / "annotations/instances_train.json", [image(1, "in\\a.jpg")])
    data = read_coco(touch(tmp_path), report=lambda problem: pytest.fail(problem.message))
    assert (data.train.samples[0].id, data.train.samples[0].image) == ("in/a", tmp_path / f"{place}in/a.jpg")


@pytest.mark.parametrize("val", ["valid", "val"])
def test_exports_of_annotation_tools(tmp_path: Path, val: str) -> None:
    touch(tmp_path, "train/1.jpg", f"{val}/1.jpg")
    write(tmp_path / "train/_annotations.coco.json", [image(1, "1.jpg")], [annotation(1, 1)])
    write(tmp_path / f"{val}/_annotations.coco.json", [image(1, "1.jpg")])
    assert has_annotations(tmp_path)
    data = read_coco(tmp_path)
    assert [(split.name, [s.id for s in split]) for split in data.splits] == [
        ("train", ["train/1"]),
        (val, [f"{val}/1"]),
    ]
    assert data.sample(f"{val}/1").image == tmp_path / f"{val}/1.jpg"


@pytest.mark.parametrize("name", ["export.json", "annotations/instances_default.json", "_annotations.coco.json"])
def test_the_only_annotation_file(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "001.jpg")
    write(tmp_path / name, [image(1)])
    (tmp_path / "package.json").write_text('{"images": []}')
    assert has_annotations(tmp_path)
    data = read_coco(tmp_path)
    assert ([s.id for s in data.train], data.val) == (["001"], None)
    write(tmp_path / "annotations/more.json", [image(1)])
    with pytest.raises(
        DataError, match=r"several files could be the list 'train', give one as --train_list: .*more\.json"
    ):
        read_coco(tmp_path)
    assert read_coco(tmp_path, train_list=name) == data


def test_which_list(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown list 'train'; choices: no annotation file is there"):
        read_coco(touch(tmp_path, "001.jpg"))
    assert not has_annotations(tmp_path)
    assert has_annotations(tmp_path, "elsewhere.json")
    write(tmp_path / "annotations/instances_val2014.json", [image(1)])
    with pytest.raises(DataError, match="unknown list 'train'; choices: val2014"):
        read_coco(tmp_path)
    write(tmp_path / "annotations/instances_train2014.json", [image(1)])
    assert [split.name for split in read_coco(tmp_path).splits] == ["train2014", "val2014"]
    with pytest.raises(DataError, match="unknown list 'minival'; choices: train2014, val2014"):
        read_coco(tmp_path, val_list="minival")
    write(tmp_path / "annotations/instances_train2017.json", [image(1)])
    with pytest.raises(
        DataError, match=r"list 'train', give one as --train_list: .*train2014\.json, .*train2017\.json"
    ):
        read_coco(tmp_path)
    assert read_coco(tmp_path, train_list="train2017").train.name == "train2017"


@pytest.mark.parametrize(
    "categories",
    [CATEGORIES[:2], [*CATEGORIES, {"id": 4, "name": "fox"}], [*CATEGORIES[:2], {"id": 90, "name": "elk"}]],
)
def test_the_categories_of_both_lists_agree(tmp_path: Path, categories: Any) -> None:
    touch(tmp_path, "001.jpg")
    write(tmp_path / "annotations/instances_train.json", [image(1)])
    write(tmp_path / "annotations/instances_val.json", [image(1)], [], categories)
    with pytest.raises(DataError, match=r"instances_val\.json: category (90|4) is '.*', but '.*' in .*train\.json"):
        read_coco(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not proper JSON"),
        (b"\xff\xff\xff", "not proper JSON"),
        ("[" * 100_000, "not proper JSON"),
        ("[]", "no instance annotations; the lists images, annotations, categories"),
        ('{"images": [], "annotations": {}, "categories": []}', "no instance annotations"),
        ('{"images": [], "annotations": [], "categories": [3]}', "a category needs an 'id' of its own"),
        ('{"images": [], "annotations": [], "categories": [{"id": "3", "name": "a"}]}', "a category needs"),
        (json.dumps({"images": [], "annotations": [], "categories": CATEGORIES[:1] * 2}), "an 'id' of its own"),
        (json.dumps({"images": [], "annotations": [], "categories": CATEGORIES}), "'train' names no photograph"),
        (json.dumps({"images": []}), "missing: annotations, categories"),
        (
            json.dumps({"images": [], "annotations": [], "categories": [*CATEGORIES, {"id": 4, "name": "dog"}]}),
            r"instances_train\.json: the categories 18 and 4 are both called 'dog'",
        ),
        (
            json.dumps({"images": [], "annotations": [], "categories": [*CATEGORIES, {"id": 0, "name": "Background"}]}),
            r"instances_train\.json: category 0: 'Background' is class 0 already",
        ),
        ('{"images": [], "annotations": [], "categories": [{"id": 3, "name": " "}]}', "category 3: its name is empty"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = tmp_path / "instances_train.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(DataError, match=message):
        read_coco(tmp_path, report=lambda problem: None)


def test_a_list_that_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "instances_train.json", [image(1)])

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=rf"{path}: cannot be read \(Permission denied\)"):
        read_coco(tmp_path)


def test_all_problems_are_found_in_one_pass(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{number:03}.jpg" for number in range(1, 10)))
    images = [
        image(1),
        image(1, "002.jpg"),
        image(3, "001.jpg"),
        {"id": 4},
        {"id": 5.5, "file_name": "005.jpg"},
        image(6, "gone.jpg"),
        image(7, "../007.jpg"),
        image(8),
        image(9),
        image(10, "."),
    ]
    annotations = [
        annotation(1, 1, 3, box(0, 0, 2, 2)),
        annotation(2, 77),
        annotation(3, 8, 77, box(0, 0, 2, 2)),
        annotation(4, 8, 18, box(0, 0, 2, 2)),
        {"image_id": 1},
        annotation(5, 9, 90, {"size": [W, H], "counts": [H * W]}),
    ]
    write(tmp_path / "instances_train.json", images, annotations)
    found: list[Problem] = []
    data = read_coco(tmp_path, report=found.append)
    assert [(s.id, s.tags, s.mask is not None) for s in data.train] == [
        ("001", (1,), True),
        ("008", (2,), False),
        ("009", (3,), False),
    ]
    path = tmp_path / "instances_train.json"
    assert [(problem.kind, problem.message.removeprefix(f"{path}: ").split(";")[0]) for problem in found] == [
        ("duplicate-id", "two images have the id 1: 001.jpg and 002.jpg"),
        ("bad-row", "images[3]: an 'id' and a 'file_name' are expected"),
        ("bad-row", "images[4]: an 'id' and a 'file_name' are expected"),
        ("bad-row", "annotations[1]: there is no image 77"),
        ("unknown-class", "annotations[2]: unknown category '77'"),
        ("bad-row", "annotations[4]: an 'image_id' and a 'category_id' are expected"),
        ("missing-photograph", "image 6: there is no photograph 'gone.jpg'"),
        ("unsafe-id", "image 7: '../007.jpg' must be a path inside the folder of the photographs"),
        ("bad-row", "image 9: an outline of size [16, 12], but the image has [12, 16] (height, width)"),
        ("unsafe-id", "image 10: '.' must be a path inside the folder of the photographs"),
        ("duplicate-row", f"image 3: '001' is listed already ({path}: image 1)"),
    ]
    with pytest.raises(DataError, match="two images have the id 1"):
        read_coco(tmp_path)
