from pathlib import Path

import pytest
from PIL import Image

from tag2mask.data.csv_folder import hold_out, read_csv_folder, read_label_table
from tag2mask.data.masks import MaskFile
from tag2mask.data.problems import Problem
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


@pytest.mark.parametrize(
    "header", ["image_path,label,file", "File,tags,image_path,Label", "path,image,label,IMAGE_PATH"]
)
def test_a_columns_own_name_goes_before_its_other_names(tmp_path: Path, header: str) -> None:
    cells = {"image_path": "a.jpg", "label": "dog"}
    row = ",".join(cells.get(name.lower(), "x") for name in header.split(","))
    data = read_csv_folder(folder(tmp_path, f"{header}\n{row}\n", "a.jpg"))
    assert (data.classes, tags(data)) == (("dog",), {"a": (1,)})


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


def test_empty_classes_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"classes\.txt: no class name"):
        read_csv_folder(folder(tmp_path, "image_path,label\na.jpg,1\n", "a.jpg", classes="\n"))


@pytest.mark.parametrize("image", ["image_path", "filename", "File_Name", "file", "image", "PATH"])
@pytest.mark.parametrize("label", ["label", "Labels", "tags"])
def test_other_names_of_columns(tmp_path: Path, image: str, label: str) -> None:
    data = read_csv_folder(folder(tmp_path, f"note,{label},{image}\n1,dog,a.jpg\n", "a.jpg"))
    assert (data.classes, tags(data)) == (("dog",), {"a": (1,)})


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("separator", [",", "; ", " | "])
def test_delimiters_and_separators(tmp_path: Path, delimiter: str, separator: str) -> None:
    name = f"a{delimiter.strip()} 1"
    table = f'image_path{delimiter}label\n"{name}.jpg"{delimiter}"dog{separator}ape"\nb.jpg{delimiter}\n'
    data = read_csv_folder(folder(tmp_path, table, f"{name}.jpg", "b.jpg"))
    assert tags(data) == {name: (1, 2), "b": ()}
    assert data.classes == ("ape", "dog")


def test_labels_need_no_quotation_marks_between_semicolons(tmp_path: Path) -> None:
    data = read_csv_folder(folder(tmp_path, "image_path;label\na, b.jpg;dog,ape\n", "a, b.jpg"))
    assert tags(data) == {"a, b": (1, 2)}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    mark = "\ufeff" if encoding.startswith("utf-16-") else ""
    table = f"{mark}image_path;label\r\nä.jpg;Käfer|蜂\r\n".encode(encoding)
    data = read_csv_folder(folder(tmp_path, table, "ä.jpg"))
    assert (data.classes, tags(data)) == (("Käfer", "蜂"), {"ä": (1, 2)})


def test_columns_of_classes(tmp_path: Path) -> None:
    table = (
        "image_path,zebra,split,ape, two words ,mask_path,\n"
        "a.jpg,1,train,0,TRUE,a_mask.png,7\nb.jpg,0.0,val,1.0,,,\nc.jpg,False,train,true,1,,\nd.jpg,,val,,,,\n"
    )
    folder(tmp_path, table, "a.jpg", "b.jpg", "c.jpg", "d.jpg", "a_mask.png")
    data = read_csv_folder(tmp_path)
    assert data.classes == ("zebra", "ape", "two words")
    assert tags(data) == {"a": (1, 3), "c": (2, 3), "b": (2,), "d": ()}
    assert data.val is not None
    assert [sample.id for sample in data.val] == ["b", "d"]
    assert data.sample("a").mask == MaskFile(tmp_path / "a_mask.png")


def test_columns_are_the_names_of_the_classes_file(tmp_path: Path) -> None:
    folder(tmp_path, "image_path,2,1\na.jpg,1,0\n", "a.jpg", classes="1\n2")
    assert (read_csv_folder(tmp_path).classes, tags(read_csv_folder(tmp_path))) == (("1", "2"), {"a": (2,)})
    (tmp_path / "classes.txt").write_text("1\n2\n3\n")
    with pytest.raises(DataError, match=r"tags\.csv: no column for the class '3' of .*classes\.txt"):
        read_csv_folder(tmp_path)
    (tmp_path / "classes.txt").write_text("1\n")
    with pytest.raises(DataError, match=r"tags\.csv: the column '2' is no class of .*classes\.txt"):
        read_csv_folder(tmp_path)


def test_two_tables_with_columns_of_classes(tmp_path: Path) -> None:
    folder(tmp_path, "image_path,dog,ape\na.jpg,1,0\n", "a.jpg", "b.jpg", name="labels.csv")
    (tmp_path / "held.csv").write_text("file,ape,dog\nb.jpg,1,0\n")
    data = read_csv_folder(tmp_path, val_csv="held.csv")
    assert (data.classes, tags(data)) == (("dog", "ape"), {"a": (1,), "b": (2,)})
    (tmp_path / "held.csv").write_text("file,label\nb.jpg,cat\n")
    data = read_csv_folder(tmp_path, val_csv="held.csv")
    assert (data.classes, tags(data)) == (("cat", "dog"), {"a": (2,), "b": (1,)})
    (tmp_path / "held.csv").write_text("file,ape,cat\nb.jpg,1,0\n")
    with pytest.raises(DataError, match=r"held\.csv: the column 'cat' is no class of .*labels\.csv"):
        read_csv_folder(tmp_path, val_csv="held.csv")


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


def test_a_table_says_which_rows_it_left_out(tmp_path: Path) -> None:
    folder(tmp_path, "image_path,ape\n./a.jpg,1\nb.jpg,x\n\n.\\c.jpg\n")
    table = read_label_table(tmp_path / "tags.csv", report=lambda problem: None)
    assert [row.labels for row in table] == [("ape",)]
    assert (table.classes, table.left_out) == (("ape",), ("b.jpg", "c.jpg"))


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
