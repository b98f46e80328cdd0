from pathlib import Path

import pytest

from tag2mask.data.class_folders import has_class_folders, read_class_folders
from tag2mask.data.problems import Problem
from tag2mask.data.samples import Dataset
from tag2mask.errors import DataError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def tags(data: Dataset) -> list[dict[str, tuple[int, ...]]]:
    return [{sample.id: sample.tags for sample in split} for split in data.splits]


def test_one_tag_per_folder(tmp_path: Path) -> None:
    touch(tmp_path, "dog/b.jpg", "dog/in/the sun/a.v1.PNG", "cat/a.jpg", "Background/x.jpg", "notes/a.txt", "cat/a.txt")
    touch(tmp_path, "cat/.a.jpg", ".git/a.jpg", "dog/.cache/a.jpg", ".a.jpg")
    (tmp_path / "notes").rename(tmp_path / ".notes")
    data = read_class_folders(tmp_path)
    assert data.classes == ("cat", "dog")
    assert tags(data) == [{"Background/x": (), "cat/a": (1,), "dog/b": (2,), "dog/in/the sun/a.v1": (2,)}]
    assert data.sample("dog/b").image == tmp_path / "dog/b.jpg"
    assert (data.layout, data.val, data.root) == ("folders", None, tmp_path)
    assert all(sample.mask is None for sample in data.train)


def test_classes_file_and_numbers(tmp_path: Path) -> None:
    touch(tmp_path, "10/a.jpg", "9/a.jpg")
    assert read_class_folders(tmp_path).classes == ("9", "10")
    (tmp_path / "classes.txt").write_text("10\n9\nape\n")
    data = read_class_folders(tmp_path)
    assert (data.classes, tags(data)) == (("10", "9", "ape"), [{"10/a": (1,), "9/a": (2,)}])
    (tmp_path / "classes.txt").write_text("10\nape\n")
    with pytest.raises(DataError, match=r"9/a\.jpg: unknown class '9'; choices: 10, ape"):
        read_class_folders(tmp_path)


def test_lists(tmp_path: Path) -> None:
    touch(tmp_path, "train/cat/a.jpg", "train/background/b.jpg", "val/dog/a.jpg", "test/dog/b.jpg", "docs/a.txt")
    data = read_class_folders(tmp_path)
    assert data.classes == ("cat", "dog")
    assert tags(data) == [{"train/background/b": (), "train/cat/a": (1,)}, {"val/dog/a": (2,)}]
    assert [split.name for split in data.splits] == ["train", "val"]


def test_train_without_val_and_classes_called_train(tmp_path: Path) -> None:
    data = read_class_folders(touch(tmp_path / "a", "train/cat/a.jpg", "train/dog/a.jpg"))
    assert (data.classes, data.val) == (("cat", "dog"), None)
    data = read_class_folders(touch(tmp_path / "b", "train/a.jpg", "train/steam/b.jpg", "car/a.jpg"))
    assert tags(data) == [{"car/a": (1,), "train/a": (2,), "train/steam/b": (2,)}]
    assert read_class_folders(touch(tmp_path / "c", "train/a.jpg", "val/a.jpg")).classes == ("train", "val")


def test_problems_without_lists(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.jpg", "cat/a.png", "dog/notes.txt", "x.jpg", "y.txt")
    found: list[Problem] = []
    data = read_class_folders(tmp_path, report=found.append)
    assert (data.classes, tags(data)) == (("cat",), [{"cat/a": (1,)}])
    assert [(problem.kind, problem.message.split(":")[0]) for problem in found] == [
        ("stray-file", str(tmp_path / "x.jpg")),
        ("empty-class", str(tmp_path / "dog")),
        ("duplicate-id", str(tmp_path / "cat/a.png")),
    ]
    with pytest.raises(DataError, match=r"x\.jpg: lies beside the folders of classes"):
        read_class_folders(tmp_path)
    (tmp_path / "x.jpg").unlink()
    with pytest.raises(DataError, match="dog: no photograph in this folder of a class"):
        read_class_folders(tmp_path)


def test_problems_with_lists(tmp_path: Path) -> None:
    touch(tmp_path, "train/cat/a.jpg", "train/x.jpg", "val/cat/a.jpg", "val/dog/b.txt", "bird/a.jpg", "y.jpg")
    found: list[Problem] = []
    assert tags(read_class_folders(tmp_path, report=found.append)) == [{"train/cat/a": (1,)}, {"val/cat/a": (1,)}]
    assert sorted((problem.kind, problem.message.split(":")[0]) for problem in found) == [
        ("empty-class", str(tmp_path / "val/dog")),
        ("stray-file", str(tmp_path / "bird")),
        ("stray-file", str(tmp_path / "train/x.jpg")),
        ("stray-file", str(tmp_path / "y.jpg")),
    ]


def test_no_photographs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no photographs in folders named after their classes"):
        read_class_folders(tmp_path)
    with pytest.raises(DataError, match="no class is named"):
        read_class_folders(touch(tmp_path, "background/a.jpg"))


def test_recognition(tmp_path: Path) -> None:
    assert not has_class_folders(touch(tmp_path, "cat/a.txt", ".hidden/a.jpg"))
    assert has_class_folders(touch(tmp_path, "cat/indoors/a.jpg"))
    assert not has_class_folders(touch(tmp_path, "a.jpg"))
