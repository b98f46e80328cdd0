from pathlib import Path

import pytest

from tag2mask.data.csv_folder import read_csv_folder
from tag2mask.data.masks import MaskFile
from tag2mask.data.tag_table import read_label_table
from tag2mask.errors import DataError
from tests.data.csv_folders import folder, tags


def test_order_of_columns_bom_crlf_spaces_and_blank_rows(tmp_path: Path) -> None:
    table = b'\xef\xbb\xbfLabel , Image_Path,note\r\n" dog , dog,",a.jpg ,x\r\n\r\n,,\r\n\xc3\xa4sel,b\\c.jpg,\r\n'
    data = read_csv_folder(folder(tmp_path, table, "a.jpg", "b/c.jpg"))
    assert data.classes == ("dog", "äsel")
    assert tags(data) == {"a": (1,), "b/c": (2,)}


@pytest.mark.parametrize(
    "header", ["image_path,label,file", "File,tags,image_path,Label", "path,image,label,IMAGE_PATH"]
)
def test_a_columns_own_name_goes_before_its_other_names(tmp_path: Path, header: str) -> None:
    cells = {"image_path": "a.jpg", "label": "dog"}
    row = ",".join(cells.get(name.lower(), "x") for name in header.split(","))
    data = read_csv_folder(folder(tmp_path, f"{header}\n{row}\n", "a.jpg"))
    assert (data.classes, tags(data)) == (("dog",), {"a": (1,)})


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


def test_a_table_says_which_rows_it_left_out(tmp_path: Path) -> None:
    folder(tmp_path, "image_path,ape\n./a.jpg,1\nb.jpg,x\n\n.\\c.jpg\n")
    table = read_label_table(tmp_path / "tags.csv", report=lambda problem: None)
    assert [row.labels for row in table] == [("ape",)]
    assert (table.classes, table.left_out) == (("ape",), ("b.jpg", "c.jpg"))
