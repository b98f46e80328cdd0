from pathlib import Path

import pytest

from tag2mask.data.csv_folder import read_csv_folder
from tag2mask.data.masks import MaskFile
from tag2mask.data.problems import Problem
from tag2mask.errors import DataError
from tests.data.csv_folders import folder, tags


def test_names_are_sorted_and_paths_are_ids(tmp_path: Path) -> None:
    table = 'image_path,label\na.jpg,"dog,cat"\nsub/b.png,dog; eel\n./c.v2.JPG,\n'
    data = read_csv_folder(folder(tmp_path, table, "a.jpg", "sub/b.png", "c.v2.JPG"))
    assert data.classes == ("cat", "dog", "eel")
    assert tags(data) == {"a": (1, 2), "sub/b": (2, 3), "c.v2": ()}
    assert data.sample("sub/b").image == tmp_path / "sub/b.png"
    assert data.val is None
    assert data.train.name == "train"
    assert all(sample.mask is None for sample in data.train)


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
        ("file,tag\na.jpg,dog\n", "line 2: column 'tag' holds 'dog', but 0 or 1 is expected .*'label'"),
        ("image_path label\na.jpg dog\n", "found: image_path label$"),
        ("image_path,mask_path,,\na.jpg,,,\n", "image_path and one column per class; found: image_path, mask_path"),
        ("a.jpg,dog\n", r"found: a\.jpg, dog"),
        ("image_path,label,Label\na.jpg,dog,cat\n", "columns 'label' and 'Label' of the header could both be label"),
        ("file,path,label\na.jpg,a.jpg,dog\n", "'file' and 'path' of the header could both be image_path"),
        ("image_path,labels,tags\na.jpg,dog,cat\n", "'labels' and 'tags' of the header could both be label"),
        ("image_path,label,split,split\na.jpg,dog,,\n", "could both be split"),
        ("image_path,cat,cat\na.jpg,0,1\n", "names the class 'cat' twice"),
        ("image_path,cat,dog\na.jpg,0,2\n", r"tags\.csv line 2: column 'dog' holds '2', but 0 or 1"),
        ("", "found: nothing"),
        ("image_path,label\n", "no rows"),
        ("image_path,label\na.jpg,dog,cat\n", r"line 2: 3 fields.*quotation marks"),
        ("image_path,label\na.jpg\n", "line 2: 1 fields"),
        ("image_path,label\n,dog\n", "line 2: image_path is empty"),
        ('image_path,label\na.jpg,"dog\n', "not a proper CSV file"),
        ("image_path,label\na.jpg,dog\ngone.jpg,dog\n", r"line 3: there is no photograph .*gone\.jpg"),
        ("image_path,label\n../a.jpg,dog\n", "line 2.*must be a path inside"),
        ("image_path,label\n/a.jpg,dog\n", "line 2.*must be a path inside"),
        ("image_path,label\na.jpg,dog\na.jpg,cat\n", r"line 3: 'a' is listed already \(.*line 2\)"),
        ("image_path,label,split\na.jpg,dog,test\n", "line 2: unknown split 'test'; choices: train, val"),
        ("image_path,label,split\na.jpg,dog,val\n", "none is left to train on"),
        ("image_path,label,mask_path\na.jpg,dog,a.png\n", r"line 2: there is no mask .*a\.png"),
        ("image_path,label,mask_path\na.jpg,dog,../tags.csv\n", r"line 2: the mask '\.\./tags\.csv' must be a path in"),
        ("image_path,label,mask_path\na.jpg,dog,/dev/null\n", "line 2: the mask '/dev/null' must be a path inside"),
        ("image_path,label\na.jpg,\n", "no class is named"),
        ("image_path,label\na.jpg,background\n", r"tags\.csv line 2: 'background' is class 0 already"),
        ("image_path,Background,dog\na.jpg,0,1\n", r"tags\.csv: the header: 'Background' is class 0 .* the column out"),
        (b"image_path,label\na.jpg,\xe4sel\n", r"tags\.csv line 2: not UTF-8 text; save the file as UTF-8"),
        (b"image_path,label\n" + b"x" * 200_000 + b",dog\n", "line 2: not a proper CSV file"),
        (b"x" * 200_000, "line 1: not a proper CSV file"),
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
    for name in "bcd":
        (tmp_path / "sub" / f"{name}.JPEG").unlink()
    with pytest.raises(DataError, match=r"no row for 1 photograph \(sub/e.JPEG\)"):
        read_csv_folder(tmp_path)


def test_same_name_with_two_suffixes_is_one_id_too_many(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"share the id 'a': .*a\.jpg and .*a\.png"):
        read_csv_folder(folder(tmp_path, "image_path,label\na.jpg,dog\na.png,dog\n", "a.jpg", "a.png"))


def test_masks_are_found_beside_photographs_and_never_opened(tmp_path: Path) -> None:
    table = "image_path,label,mask_path\na.jpg,dog,a_mask.png\nb.jpg,dog,\n"
    folder(tmp_path, table, "a.jpg", "b.jpg")
    (tmp_path / "a_mask.png").write_bytes(b"unreadable")
    data = read_csv_folder(tmp_path)
    assert [sample.mask for sample in data.train] == [MaskFile(tmp_path / "a_mask.png"), None]


def test_column_split(tmp_path: Path) -> None:
    data = read_csv_folder(
        folder(tmp_path, "image_path,label,split\na.jpg,dog,train\nb.jpg,cat,Val\n", "a.jpg", "b.jpg")
    )
    assert data.val is not None
    assert [sample.id for sample in data.train] == ["a"]
    assert [sample.id for sample in data.val] == ["b"]
    assert data.classes == ("cat", "dog")


def test_the_second_table_by_any_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder(tmp_path / "photos", "image_path,label\na.jpg,dog\n", "a.jpg", "b.jpg", name="mine.csv")
    (root / "val.csv").write_text("image_path,label\nb.jpg,cat\n")
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(tmp_path)
    for given in ("photos", "link", "photos/../photos"):
        for table in ("val.csv", root / "val.csv", "photos/val.csv", "link/val.csv"):
            data = read_csv_folder(given, val_csv=table)
            assert [[sample.id for sample in split] for split in data.splits] == [["a"], ["b"]]


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


def test_empty_classes_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"classes\.txt: no class name"):
        read_csv_folder(folder(tmp_path, "image_path,label\na.jpg,1\n", "a.jpg", classes="\n"))


def test_a_photograph_may_be_on_both_lists(tmp_path: Path) -> None:
    table = "image_path,label,split\na.jpg,dog,train\na.jpg,dog,val\n"
    data = read_csv_folder(folder(tmp_path, table, "a.jpg"))
    assert data.val is not None
    assert data.train.samples == data.val.samples
    with pytest.raises(DataError, match=r"line 3: 'a' has other tags or another mask than in .*line 2"):
        read_csv_folder(folder(tmp_path, table.replace("dog,val", "cat,val"), "a.jpg"))


def test_all_problems_are_found_in_one_pass(tmp_path: Path) -> None:
    table = (
        "image_path,label,split,mask_path\n"
        "a.jpg,dog,train,\n"
        "a.jpg,dog,train,\n"
        "a.png,dog,train,\n"
        "b.jpg,dog,train\n"
        ",dog,train,\n"
        "c.jpg,dog,test,\n"
        "gone.jpg,dog,train,\n"
        "../a.jpg,dog,train,\n"
        'd.jpg,"emu,ape",val,gone.png\n'
        "e\\t.jpg,dog,train,\n"
    )
    names = ["a.jpg", "a.png", *(f"{name}.jpg" for name in "bcdefg"), "e/t.jpg", "e/u.jpg"]
    folder(tmp_path, table, *names, classes="ape\ndog")
    (tmp_path / "e" / "v\tw.jpg").touch()
    found: list[Problem] = []
    data = read_csv_folder(tmp_path, report=found.append)
    assert data.val is not None
    assert tags(data) == {"a": (2,), "e/t": (2,), "d": (1,)}
    assert data.val.samples[0].mask is None
    where = f"{tmp_path / 'tags.csv'} line"
    assert [(problem.kind, problem.message.split(";")[0].split(" (")[0]) for problem in found] == [
        ("bad-row", f"{where} 5: 3 fields, but the header has 4"),
        ("bad-row", f"{where} 6: image_path is empty"),
        ("bad-row", f"{where} 7: unknown split 'test'"),
        ("missing-photograph", f"{where} 8: there is no photograph {tmp_path / 'gone.jpg'}"),
        ("unsafe-id", f"{where} 9: '../a.jpg' must be a path inside {tmp_path}"),
        ("missing-mask", f"{where} 10: there is no mask {tmp_path / 'gone.png'}"),
        ("no-row", f"{tmp_path / 'e.jpg'}: no row in {tmp_path / 'tags.csv'}"),
        ("no-row", f"{tmp_path / 'f.jpg'}: no row in {tmp_path / 'tags.csv'}"),
        ("no-row", f"{tmp_path / 'g.jpg'}: no row in {tmp_path / 'tags.csv'}"),
        ("no-row", f"{tmp_path / 'e/u.jpg'}: no row in {tmp_path / 'tags.csv'}"),
        ("no-row", f"{tmp_path / 'e'}/v\tw.jpg: no row in {tmp_path / 'tags.csv'}"),
        ("duplicate-row", f"{where} 3: 'a' is listed already"),
        (
            "duplicate-id",
            f"{where} 4: two photographs share the id 'a': {tmp_path / 'a.jpg'} and {tmp_path / 'a.png'}",
        ),
        ("unknown-class", f"{where} 10: unknown class 'emu'"),
    ]


def test_what_makes_a_table_unusable_is_raised_in_any_case(tmp_path: Path) -> None:
    for table in ("", "image_path,label\n", "image_path,label\ngone.jpg,dog\n"):
        with pytest.raises(DataError):
            read_csv_folder(folder(tmp_path, table, "a.jpg"), report=lambda problem: None)
