import re
from pathlib import Path

import pytest
from PIL import Image

from tag2mask.data.masks import MaskFile
from tag2mask.data.problems import Problem
from tag2mask.data.voc import VOC_CLASSES, read_voc
from tag2mask.errors import DataError


def xml(*names: str, difficult: int = 0) -> str:
    objects = "".join(f"<object><name>{n}</name><difficult>{difficult}</difficult></object>" for n in names)
    return f"<annotation><filename>x.jpg</filename>{objects}</annotation>"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "ImageSets/Segmentation", "Annotations", "SegmentationClass", "SegmentationClassAug"):
        (root / name).mkdir(parents=True)
    for name, text in (("a", xml("dog", "cat", "dog")), ("b", xml("dog", difficult=1)), ("c", xml())):
        Image.new("RGB", (2, 2)).save(root / f"JPEGImages/{name}.jpg")
        (root / f"Annotations/{name}.xml").write_text(text)
    (root / "ImageSets/Segmentation/train.txt").write_text("a\n\nb\n")
    (root / "ImageSets/Segmentation/val.txt").write_text("c\n")
    return root


def write_list(home: Path, text: str, name: str = "train") -> None:
    (home / f"ImageSets/Segmentation/{name}.txt").write_text(text)


def test_annotations_with_vocs_classes_and_difficult_objects(home: Path) -> None:
    data = read_voc(home)
    assert data.classes == VOC_CLASSES
    assert data.classes[data.sample("b").tags[0] - 1] == "dog"
    assert data.sample("a").tags == (8, 12)
    assert data.sample("c").tags == ()
    assert data.sample("a").image == home / "JPEGImages/a.jpg"
    assert [split.name for split in data.splits] == ["train", "val"]
    assert data.root == home


def test_folders_above_are_searched(home: Path, tmp_path: Path) -> None:
    assert read_voc(tmp_path) == read_voc(home.parent) == read_voc(home)
    other = home.parent / "VOC2007" / "JPEGImages"
    other.mkdir(parents=True)
    with pytest.raises(DataError, match=r"several, name one: .*VOC2007, .*VOC2012"):
        read_voc(tmp_path)
    assert read_voc(home).train.by_id.keys() == {"a", "b"}


def test_no_images_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found none"):
        read_voc(tmp_path)


def test_masks_are_looked_for_never_opened(home: Path) -> None:
    (home / "SegmentationClass/a.png").write_bytes(b"unreadable")
    (home / "SegmentationClass/b.png").write_bytes(b"unreadable")
    (home / "SegmentationClassAug/b.png").write_bytes(b"unreadable")
    data = read_voc(home)
    assert data.sample("a").mask == MaskFile(home / "SegmentationClass/a.png")
    assert data.sample("b").mask == MaskFile(home / "SegmentationClassAug/b.png")
    assert data.sample("c").mask is None


def test_lists_of_path_pairs(home: Path) -> None:
    (home / "Mine").mkdir()
    (home / "Mine/a.png").touch()
    (home / "SegmentationClass/b.png").touch()
    write_list(home, "/JPEGImages/a.jpg /Mine/a.png\nJPEGImages/b.jpg SegmentationClassAug/b.png\n/JPEGImages/c.jpg\n")
    data = read_voc(home, val_list=None)
    assert [sample.id for sample in data.train] == ["a", "b", "c"]
    masks = [home / "Mine/a.png", home / "SegmentationClass/b.png"]
    assert [sample.mask for sample in data.train] == [*map(MaskFile, masks), None]
    assert data.sample("a").image == home / "JPEGImages/a.jpg"


def test_other_suffixes_subfolders_and_dots_in_ids(home: Path) -> None:
    (home / "JPEGImages/sub").mkdir()
    Image.new("RGB", (2, 2)).save(home / "JPEGImages/sub/d.v1.png")
    (home / "Annotations/sub").mkdir()
    (home / "Annotations/sub/d.v1.xml").write_text(xml("cow"))
    write_list(home, "sub/d.v1")
    data = read_voc(home)
    assert data.train.samples[0].image == home / "JPEGImages/sub/d.v1.png"
    write_list(home, "/JPEGImages/sub/d.v1.png")
    assert read_voc(home) == data


def test_suffixes_in_capitals(home: Path) -> None:
    for name in ("a", "b"):
        (home / f"JPEGImages/{name}.jpg").rename(home / f"JPEGImages/{name}.JPG")
    assert [sample.image.name for sample in read_voc(home).train] == ["a.JPG", "b.JPG"]
    write_list(home, "/JPEGImages/a.JPG\nb\n")
    assert [sample.id for sample in read_voc(home).train] == ["a", "b"]


def test_an_id_of_two_photographs(home: Path) -> None:
    Image.new("RGB", (2, 2)).save(home / "JPEGImages/b.PNG")
    with pytest.raises(DataError, match=r"train\.txt line 3: several .* the id 'b': .*b\.PNG and .*b\.jpg"):
        read_voc(home)
    found: list[Problem] = []
    assert [sample.id for sample in read_voc(home, report=found.append).train] == ["a"]
    assert [problem.kind for problem in found] == ["duplicate-id"]
    write_list(home, "a\nJPEGImages/b.jpg\n")
    assert [sample.image.name for sample in read_voc(home).train] == ["a.jpg", "b.jpg"]


def test_tag_table_is_preferred_and_classes_file_fixes_names(home: Path) -> None:
    (home / "tags.csv").write_text('image_path,label\nJPEGImages/a.jpg,"bee,ape"\n/JPEGImages/b.jpg,3\nc,\nd.jpg,ape\n')
    (home / "classes.txt").write_text("bee\nape\ncat\n")
    data = read_voc(home)
    assert data.classes == ("bee", "ape", "cat")
    assert [data.sample(name).tags for name in "abc"] == [(1, 2), (3,), ()]


def test_classes_without_file_are_the_names_found(home: Path) -> None:
    (home / "mine.csv").write_text("image_path,label\na.jpg,dog\nb.jpg,ape\nc.jpg,\n")
    assert read_voc(home, labels_csv="mine.csv").classes == ("ape", "dog")
    assert read_voc(home, labels_csv=home / "mine.csv").classes == ("ape", "dog")
    with pytest.raises(DataError, match=r"gone\.csv: there is no such table"):
        read_voc(home, labels_csv="gone.csv")


def test_lists_by_name_by_file_name_and_by_path(home: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("c\n")
    for name in ("val", "val.txt"):
        assert [sample.id for sample in read_voc(home, train_list=name).train] == ["c"]
    data = read_voc(home, train_list=str(own), val_list="train")
    assert data.train.name == "own"
    assert [sample.id for sample in data.train] == ["c"]
    assert [split.name for split in data.splits] == ["own", "train"]


def test_val_is_optional_but_a_named_list_is_not(home: Path) -> None:
    (home / "ImageSets/Segmentation/val.txt").unlink()
    assert read_voc(home).val is None
    assert read_voc(home, val_list=None).val is None
    with pytest.raises(DataError, match="unknown list 'valid'; choices: train"):
        read_voc(home, val_list="valid")
    with pytest.raises(DataError, match="unknown list 'train_aug'; choices: train"):
        read_voc(home, train_list="train_aug")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"train\.txt: the list is empty"),
        ("a\nz\n", r"train\.txt line 2: there is no photograph 'z'"),
        ("a\n/JPEGImages/z.jpg\n", r"train\.txt line 2: there is no photograph 'z'"),
        ("a\n\na\n", r"train\.txt line 3: 'a' is listed already \(.*line 1\)"),
        ("a b c\n", r"train\.txt line 1: an id, or the paths"),
        ("../JPEGImages/a\n", r"train\.txt line 1: .*cannot be the id"),
        ("a /../a.png\n", r"train\.txt line 1: the mask '\.\./a\.png' must be a path inside"),
    ],
)
def test_unusable_lists(home: Path, text: str, message: str) -> None:
    write_list(home, text)
    with pytest.raises(DataError, match=message):
        read_voc(home)


def test_missing_tags_name_the_line(home: Path) -> None:
    (home / "Annotations/b.xml").unlink()
    with pytest.raises(DataError, match=r"train\.txt line 3: no tags for 'b', there is no .*b\.xml"):
        read_voc(home)
    (home / "tags.csv").write_text("image_path,label\nJPEGImages/a.jpg,dog\n")
    with pytest.raises(DataError, match=r"train\.txt line 3: no row for 'b' in .*tags\.csv"):
        read_voc(home)
    (home / "tags.csv").write_text("image_path,label\nJPEGImages/a.jpg,dog\na,cat\n")
    with pytest.raises(DataError, match=r"line 3: 'a' has a row already"):
        read_voc(home)
    (home / "tags.csv").unlink()
    (home / "Annotations").rename(home / "Elsewhere")
    with pytest.raises(DataError, match=r"no tags; .* is expected$"):
        read_voc(home)
    (home / "cls_labels.npy").touch()
    hint = "; cls_labels.npy is there: --labels_npy cls_labels.npy --allow_pickle true reads it"
    with pytest.raises(DataError, match=f"{re.escape(hint)}$"):
        read_voc(home)


def test_damaged_annotation_and_unknown_class(home: Path) -> None:
    (home / "Annotations/b.xml").write_text("<annotation>")
    with pytest.raises(DataError, match=r"b\.xml: not proper XML"):
        read_voc(home)
    (home / "Annotations/b.xml").write_text(xml("dog"))
    (home / "classes.txt").write_text("cat\n")
    with pytest.raises(DataError, match=r"train\.txt line 1: unknown class 'dog'; choices: cat"):
        read_voc(home)


def test_a_label_that_is_no_class_is_told_with_its_row(home: Path) -> None:
    (home / "tags.csv").write_text("image_path,label\nb.jpg,background\na.jpg,cat\nc.jpg,\n")
    message = r"tags\.csv line 2: 'background' is class 0 already .*; leave the label empty"
    with pytest.raises(DataError, match=message):
        read_voc(home)
    (home / "tags.csv").unlink()
    (home / "Annotations/b.xml").write_text(xml("Background"))
    with pytest.raises(DataError, match=r"train\.txt line 3: 'Background' is class 0 already"):
        read_voc(home)


def test_spaces_in_ids(home: Path) -> None:
    for name in ("a b", "a b c"):
        Image.new("RGB", (2, 2)).save(home / f"JPEGImages/{name}.jpg")
        (home / f"Annotations/{name}.xml").write_text(xml("cow"))
    write_list(home, "a b \na b c\n/JPEGImages/a.jpg /SegmentationClass/a.png\n")
    assert [sample.id for sample in read_voc(home).train] == ["a b", "a b c", "a"]


def test_columns_of_classes_in_the_table(home: Path) -> None:
    (home / "tags.csv").write_text("image_path,dog,cat\na.jpg,1,0\nb.jpg,1,1\nc.jpg,0,0\n")
    data = read_voc(home)
    assert data.classes == ("dog", "cat")
    assert [data.sample(name).tags for name in "abc"] == [(1,), (1, 2), ()]
    (home / "classes.txt").write_text("cat\ndog\n")
    assert read_voc(home).sample("a").tags == (2,)


def test_a_photograph_may_be_on_both_lists(home: Path) -> None:
    write_list(home, "a\nc\n", name="val")
    data = read_voc(home)
    assert data.val is not None
    assert [[sample.id for sample in split] for split in data.splits] == [["a", "b"], ["a", "c"]]


def test_all_problems_are_found_in_one_pass(home: Path) -> None:
    for name in "defg":
        Image.new("RGB", (2, 2)).save(home / f"JPEGImages/{name}.jpg")
    (home / "Annotations/d.xml").write_text("<annotation>")
    (home / "Annotations/e.xml").write_text(xml("emu", "dog"))
    (home / "classes.txt").write_text("dog\ncat\n")
    write_list(home, "a\na b c\n../a\ngone\na\nd\ne\n")
    write_list(home, "c\nf\n", name="val")
    found: list[Problem] = []
    data = read_voc(home, report=found.append)
    assert {sample.id: sample.tags for split in data.splits for sample in split} == {"a": (1, 2), "e": (1,), "c": ()}
    assert [problem.kind for problem in found] == [
        "bad-row",
        "unsafe-id",
        "missing-photograph",
        "missing-tags",
        "missing-tags",
        "duplicate-row",
        "unknown-class",
    ]
    (home / "tags.csv").write_text(
        "image_path,label,split\na.jpg,dog,\na.jpg,cat,train\nJPEGImages/c.jpg,cat,val\nc,,val"
    )
    write_list(home, "c\n")
    write_list(home, "a\nb\n", name="val")
    found.clear()
    data = read_voc(home, report=found.append)
    assert [sample.tags for sample in data.train] == [(2,)]
    assert [(problem.kind, problem.message.split(": ")[1]) for problem in found] == [
        ("bad-row", "unknown split ''; choices"),
        ("duplicate-row", "'c' has a row already (" + str(home / "tags.csv") + " line 4)"),
        ("missing-tags", f"no row for 'b' in {home / 'tags.csv'}"),
    ]


def test_real_photographs(shared_data: Path) -> None:
    data = read_voc(shared_data / "voc12-small")
    assert data.val is not None
    assert (len(data.train), len(data.val)) == (821, 321)
    assert data.classes == VOC_CLASSES
    assert data.sample("2007_000032").tags == (1, 15)
    assert all(sample.mask is not None and sample.tags for split in data.splits for sample in split)
    assert len(read_voc(shared_data / "voc12-small", train_list="train_2007").train) == 311
