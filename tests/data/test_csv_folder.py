from pathlib import Path

import pytest
from PIL import Image

from tag2mask.data.csv_folder import hold_out, read_csv_folder, read_text
from tag2mask.data.samples import Dataset, Sample, Split
from tag2mask.errors import DataError, SettingsError


def folder(root: Path, table: str | bytes, *images: str, name: str = "tags.csv", classes: str | None = None) -> Path:
    for image in images:
        (root / image).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(root / image)
    (root / name).write_bytes(table.encode() if isinstance(table, str) else table)
    if classes is not None:
        (root / "classes.txt").write_text(classes)
    return root


def tags(data: Dataset) -> dict[str, tuple[int, ...]]:
    return {sample.id: sample.tags for split in data.splits for sample in split}


def test_names_are_sorted_and_paths_are_ids(tmp_path: Path) -> None:
    table = 'image_path,label\na.jpg,"dog,cat"\nsub/b.png,dog; eel\n./c.v2.JPG,\n'
    data = read_csv_folder(folder(tmp_path, table, "a.jpg", "sub/b.png", "c.v2.JPG"))
    assert data.classes == ("cat", "dog", "eel")
    assert tags(data) == {"a": (1, 2), "sub/b": (2, 3), "c.v2": ()}
    assert data.sample("sub/b").image == tmp_path / "sub/b.png"
    assert data.val is None
    assert data.train.name == "train"
    assert all(sample.mask is None for sample in data.train)


def test_order_of_columns_bom_crlf_spaces_and_blank_rows(tmp_path: Path) -> None:
    table = b'\xef\xbb\xbfLabel , Image_Path,note\r\n" dog , dog,",a.jpg ,x\r\n\r\n,,\r\n\xc3\xa4sel,b\\c.jpg,\r\n'
    data = read_csv_folder(folder(tmp_path, table, "a.jpg", "b/c.jpg"))
    assert data.classes == ("dog", "äsel")
    assert tags(data) == {"a": (1,), "b/c": (2,)}


def test_classes_file_fixes_order_and_allows_numbers(tmp_path: Path) -> None:
    table = 'image_path,label\na.jpg,"2,zebra"\nb.jpg,3\n'
    data = read_csv_folder(folder(tmp_path, table, "a.jpg", "b.jpg", classes="zebra\nape\n\nbee \n"))
    assert data.classes == ("zebra", "ape", "bee")
    assert tags(data) == {"a": (1, 2), "b": (3,)}


def test_numbers_without_classes_file_are_names_in_numerical_order(tmp_path: Path) -> None:
    data = read_csv_folder(folder(tmp_path, 'image_path,label\na.jpg,10\nb.jpg,"9,2"\n', "a.jpg", "b.jpg"))
    assert data.classes == ("2", "9", "10")
    assert tags(data) == {"a": (3,), "b": (1, 2)}


@pytest.mark.parametrize("label", ["emu", "0", "3", "-1"])
def test_unknown_class_names_line_and_choices(tmp_path: Path, label: str) -> None:
    table = f"image_path,label\na.jpg,ape\nb.jpg,{label}\n"
    with pytest.raises(DataError, match=rf"tags\.csv line 3: unknown class '{label}'; choices: ape, bee; or 1 to 2"):
        read_csv_folder(folder(tmp_path, table, "a.jpg", "b.jpg", classes="ape\nbee"))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,tag\na.jpg,dog\n", "found: file, tag"),
        ("image_path;label\na.jpg;dog\n", "found: image_path;label"),
        ("a.jpg,dog\n", r"found: a\.jpg, dog"),
        ("image_path,label,label\na.jpg,dog,cat\n", "found: image_path, label, label"),
        ("", "found: nothing"),
        ("image_path,label\n", "no rows"),
        ("image_path,label\na.jpg,dog,cat\n", r"line 2: 3 fields.*quotation marks"),
        ("image_path,label\na.jpg\n", "line 2: 1 fields"),
        ("image_path,label\n,dog\n", "line 2: image_path is empty"),
        ('image_path,label\na.jpg,"dog\n', "not a proper CSV file"),
        ("image_path,label\na.jpg,dog\ngone.jpg,dog\n", r"line 3: there is no photograph .*gone\.jpg"),
        ("image_path,label\n../a.jpg,dog\n", "line 2.*must be a path inside"),
        ("image_path,label\n/a.jpg,dog\n", "line 2.*must be a path inside"),
        ("image_path,label\na.jpg,dog\na.jpg,cat\n", r"line 3: 'a\.jpg' has a row already \(.*line 2\)"),
        ("image_path,label,split\na.jpg,dog,test\n", "line 2: unknown split 'test'; choices: train, val"),
        ("image_path,label,split\na.jpg,dog,val\n", "none is left to train on"),
        ("image_path,label,mask_path\na.jpg,dog,a.png\n", r"line 2: there is no mask .*a\.png"),
        ("image_path,label\na.jpg,\n", "no class is named"),
        ("image_path,label\na.jpg,background\n", "class 0 already"),
        (b"image_path,label\na.jpg,\xe4sel\n", "not UTF-8 text .byte 23"),
        ("image_path,label\na.jpg,dog\n".encode("utf-16"), "not UTF-8"),
    ],
)
def test_unusable_tables(tmp_path: Path, table: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_csv_folder(folder(tmp_path, table, "a.jpg"))


def test_photographs_without_a_row_are_counted_and_named(tmp_path: Path) -> None:
    table = "image_path,label\nsub/a.jpg,dog\n"
    folder(tmp_path, table, "sub/a.jpg", *(f"sub/{name}.JPEG" for name in "bcde"), "masks/a.png", "sub/.hidden.jpg")
    with pytest.raises(DataError, match=r"no row for 4 photographs \(sub/b.JPEG, sub/c.JPEG, sub/d.JPEG, \.\.\.\)"):
        read_csv_folder(tmp_path)


def test_same_name_with_two_suffixes_is_one_id_too_many(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"share the id 'a': .*a\.jpg and .*a\.png"):
        read_csv_folder(folder(tmp_path, "image_path,label\na.jpg,dog\na.png,dog\n", "a.jpg", "a.png"))


def test_masks_are_found_beside_photographs_and_never_opened(tmp_path: Path) -> None:
    table = "image_path,label,mask_path\na.jpg,dog,a_mask.png\nb.jpg,dog,\n"
    folder(tmp_path, table, "a.jpg", "b.jpg")
    (tmp_path / "a_mask.png").write_bytes(b"unreadable")
    data = read_csv_folder(tmp_path)
    assert [sample.mask for sample in data.train] == [tmp_path / "a_mask.png", None]


def test_column_split(tmp_path: Path) -> None:
    data = read_csv_folder(
        folder(tmp_path, "image_path,label,split\na.jpg,dog,train\nb.jpg,cat,Val\n", "a.jpg", "b.jpg")
    )
    assert data.val is not None
    assert [sample.id for sample in data.train] == ["a"]
    assert [sample.id for sample in data.val] == ["b"]
    assert data.classes == ("cat", "dog")


def test_second_table(tmp_path: Path) -> None:
    folder(tmp_path, "image_path,label\na.jpg,dog\n", "a.jpg", "b.jpg", name="mine.csv")
    (tmp_path / "held.csv").write_text("image_path,label\nb.jpg,cat\n")
    data = read_csv_folder(tmp_path, val_csv="held.csv")
    assert data.val is not None
    assert tags(data) == {"a": (2,), "b": (1,)}
    assert [sample.id for sample in data.val] == ["b"]
    assert read_csv_folder(tmp_path, labels_csv=tmp_path / "mine.csv", val_csv=tmp_path / "held.csv") == data
    with pytest.raises(DataError, match=r"nothing\.csv: there is no such table"):
        read_csv_folder(tmp_path, val_csv="nothing.csv")


def test_val_given_twice(tmp_path: Path) -> None:
    folder(tmp_path, "image_path,label,split\na.jpg,dog,train\nb.jpg,dog,val\n", "a.jpg", "b.jpg")
    (tmp_path / "held.csv").write_text("image_path,label\nb.jpg,cat\n")
    with pytest.raises(DataError, match=r"rows of split val, although .*held\.csv"):
        read_csv_folder(tmp_path, val_csv="held.csv")


def test_which_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no CSV file with the tags"):
        read_csv_folder(tmp_path)
    folder(tmp_path, "image_path,label\na.jpg,dog\n", "a.jpg", name="tags.csv")
    folder(tmp_path, "image_path,label\na.jpg,cat\n", name="other.csv")
    assert read_csv_folder(tmp_path).classes == ("dog",)
    assert read_csv_folder(tmp_path, labels_csv="other.csv").classes == ("cat",)
    (tmp_path / "labels.csv").touch()
    with pytest.raises(DataError, match=r"name one of them: labels\.csv, other\.csv, tags\.csv"):
        read_csv_folder(tmp_path)


def test_unreadable_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.csv: cannot be read .No such file"):
        read_text(tmp_path / "gone.csv")


def test_empty_classes_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"classes\.txt: no class name"):
        read_csv_folder(folder(tmp_path, "image_path,label\na.jpg,1\n", "a.jpg", classes="\n"))


def tagged(*tag_tuples: tuple[int, ...]) -> Dataset:
    samples = tuple(Sample(f"{i:03}", Path(f"{i:03}.jpg"), some) for i, some in enumerate(tag_tuples))
    return Dataset(Path("root"), ("ape", "bee", "cat"), Split("train", samples))


def test_hold_out_is_a_seeded_part_of_every_class() -> None:
    data = tagged(*[(1,)] * 40, *[(2,)] * 20, *[(1, 2)] * 10, *[()] * 10, (3,), (2, 3))
    parts = hold_out(data, 0.2, seed=1)
    assert parts.val is not None
    assert parts.val.name == "held-out"
    held, kept = {s.id for s in parts.val}, {s.id for s in parts.train}
    assert held | kept == {s.id for s in data.train}
    assert not held & kept
    for tag, count in ((1, 10), (2, 6), (3, 0)):
        assert sum(tag in sample.tags for sample in parts.val) == count
    assert sum(not sample.tags for sample in parts.val) == 2
    assert [s.id for s in parts.train] == sorted(kept)
    assert hold_out(data, 0.2, seed=1) == parts
    assert hold_out(data, 0.2, seed=2) != parts
    backwards = hold_out(Dataset(data.root, data.classes, Split("train", data.train.samples[::-1])), 0.2, seed=1)
    assert backwards.val is not None
    assert {s.id for s in backwards.val} == held


def test_hold_out_leaves_every_class_something_to_train_on() -> None:
    parts = hold_out(tagged((1,), (1,), (2,), (2,), (3,), (3,)), 0.99, seed=0)
    assert sorted(sample.tags for sample in parts.train) == [(1,), (2,), (3,)]


def test_hold_out_of_too_little_holds_nothing_out() -> None:
    data = tagged((1,), (2,), (3,))
    assert hold_out(data, 0.5, seed=0) is data


def test_hold_out_checks_its_arguments() -> None:
    data = tagged((1,), (1,))
    for fraction in (0.0, 1.0, -0.1):
        with pytest.raises(SettingsError, match="fraction"):
            hold_out(data, fraction, seed=0)
    with pytest.raises(SettingsError, match="seed -1"):
        hold_out(data, 0.5, seed=-1)
    with pytest.raises(DataError, match="already"):
        hold_out(hold_out(data, 0.5, seed=0), 0.5, seed=0)
