import codecs
from pathlib import Path

import pytest

from tag2mask.data.masks import MaskFile
from tag2mask.data.problems import Problem, raise_problem
from tag2mask.data.records import (
    Record,
    SplitName,
    assemble,
    found_class_names,
    is_photograph,
    named_classes,
    read_class_names,
    read_text,
    tag_ids,
    without_image_suffix,
)
from tag2mask.errors import DataError

ROOT = Path("root")


def record(sample_id: str, *labels: str, split: SplitName = "train", suffix: str = ".jpg", mask: str = "") -> Record:
    file = MaskFile(Path(mask)) if mask else None
    return Record(f"line {sample_id}", sample_id, Path(sample_id + suffix), labels, file, split)


@pytest.mark.parametrize(
    "data",
    [
        "ä\nb".encode(),
        codecs.BOM_UTF8 + "ä\nb".encode(),
        "ä\nb".encode("utf-16"),
        codecs.BOM_UTF16_BE + "ä\nb".encode("utf-16-be"),
    ],
)
def test_encodings(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    assert read_text(tmp_path / "a.txt") == "ä\nb"


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"a\nb\nc\xe4d\n", 3),
        (codecs.BOM_UTF8 + b"a\n\xe4", 2),
        (b"\xff", 1),
        ("a\nb\n".encode("utf-16-le"), 1),
        ("a\nb\n".encode("utf-32"), 1),
        ("a\nb".encode("utf-16")[:-1], 2),
        (b"a\n\0", 2),
    ],
)
def test_what_is_no_text_names_the_line(tmp_path: Path, data: bytes, line: int) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(DataError, match=rf"a\.txt line {line}: not UTF-8 text; save the file as UTF-8"):
        read_text(tmp_path / "a.txt")


def test_unreadable_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.csv: cannot be read .No such file"):
        read_text(tmp_path / "gone.csv")


def test_class_names(tmp_path: Path) -> None:
    assert named_classes(tmp_path) is None
    (tmp_path / "classes.txt").write_text(" b\n\na c \n")
    assert named_classes(tmp_path) == read_class_names(tmp_path / "classes.txt") == ("b", "a c")
    assert found_class_names(["b", "10", "9", "b"]) == ("10", "9", "b")
    assert found_class_names(["10", "9"]) == ("9", "10")
    assert found_class_names(["cat", "Background"]) == ("cat",)
    (tmp_path / "classes.txt").write_text("cat\n\nbackground\n")
    with pytest.raises(DataError, match=r"classes\.txt line 3: 'background' is class 0 already .*; take the line out"):
        named_classes(tmp_path)


def test_labels_that_are_no_class_can_be_left_out() -> None:
    found: list[Problem] = []
    assert tag_ids(["emu", "b", "1", "3"], ["a", "b"], "line 7", found.append) == (1, 2)
    assert [problem.kind for problem in found] == ["unknown-class"] * 2
    assert found[0].message == "line 7: unknown class 'emu'; choices: a, b; or 1 to 2; or nothing (background)"
    assert tag_ids(["2"], ["2", "1"], "line 7") == (1,)
    with pytest.raises(DataError, match="line 7: unknown class"):
        tag_ids(["emu"], ["a"], "line 7")
    with pytest.raises(DataError, match=r"line 7: 'background' is class 0 already .*; leave the label empty"):
        tag_ids(["background"], ["a"], "line 7")


def test_photographs_by_name() -> None:
    assert is_photograph(Path("a/b.JPG"))
    assert not is_photograph(Path("a/.b.jpg"))
    assert not is_photograph(Path("a.jpg/b.txt"))
    assert [without_image_suffix(name) for name in ("a/b.JPG", "v1.2", "v1.2.png")] == ["a/b", "v1.2", "v1.2"]


def test_assembling() -> None:
    records = [
        record("b", "2", mask="b.png"),
        record("c", split="val"),
        record("a", "dog", "cat"),
        record("a", split="val"),
    ]
    with pytest.raises(DataError, match="line a: 'a' has other tags or another mask than in line a"):
        assemble(ROOT, "csv", ["cat", "dog"], records, raise_problem)
    records[-1] = record("b", "dog", split="val", mask="b.png")
    data = assemble(ROOT, "csv", ["cat", "dog"], records, raise_problem, train="first", val="second")
    assert (data.root, data.layout, data.classes) == (ROOT, "csv", ("cat", "dog"))
    assert [(split.name, [(s.id, s.tags) for s in split]) for split in data.splits] == [
        ("first", [("b", (2,)), ("a", (1, 2))]),
        ("second", [("c", ()), ("b", (2,))]),
    ]
    assert data.sample("b").mask == MaskFile(Path("b.png"))
    assert assemble(ROOT, "csv", ["cat", "dog"], records[:1], raise_problem).val is None


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (record("../a"), "unsafe-id"),
        (record("a"), "duplicate-row"),
        (record("a", suffix=".png"), "duplicate-id"),
        (record("a", suffix=".png", split="val"), "duplicate-id"),
        (record("a", "cat", split="val", mask="b.png"), "duplicate-row"),
    ],
)
def test_photographs_with_a_problem_are_left_out(bad: Record, kind: str) -> None:
    found: list[Problem] = []
    good = [record("a", "cat"), record("b", split="val")]
    data = assemble(ROOT, "csv", ["cat"], [*good, bad], found.append)
    assert [[s.image.name for s in split] for split in data.splits] == [["a.jpg"], ["b.jpg"]]
    assert [problem.kind for problem in found] == [kind]
    with pytest.raises(DataError, match=f"^line {bad.id}: "):
        assemble(ROOT, "csv", ["cat"], [*good, bad], raise_problem)


def test_nothing_left_to_train_on() -> None:
    with pytest.raises(DataError, match=r"^root: the list 'train' names no photograph that can be used"):
        assemble(ROOT, "csv", ["cat"], [record("../a"), record("b", split="val")], lambda problem: None)
