from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tag2mask.data.cls_labels import cls_labels, write_cls_labels
from tag2mask.data.problems import Problem
from tag2mask.data.records import Record
from tag2mask.data.samples import Dataset, Sample, Split
from tag2mask.data.voc import VOC_CLASSES, read_voc
from tag2mask.errors import DataError, SettingsError

CLASSES = ("ape", "bee", "cat")


def record(sample_id: str) -> Record:
    return Record(f"train.txt {sample_id}", sample_id, Path(f"{sample_id}.jpg"), (), None, "train")


def write(path: Path, content: Any) -> Path:
    np.save(path, content, allow_pickle=True)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cls_labels.npy"


def write_voc(root: Path, *ids: str, val: str | None = None) -> Path:
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for sample_id in (*ids, *([val] if val else [])):
        (root / "JPEGImages" / sample_id).parent.mkdir(parents=True, exist_ok=True)
        (root / f"JPEGImages/{sample_id}.jpg").touch()
    (root / "ImageSets/Segmentation/train.txt").write_text("\n".join(ids))
    if val:
        (root / "ImageSets/Segmentation/val.txt").write_text(val)
    return root


@pytest.mark.parametrize("kind", [np.float32, np.int64, bool, list])
def test_names_file_names_and_numbers(path: Path, kind: type) -> None:
    rows = {"2007_000032": [1, 0, 1], "a/b.jpg": [0, 1, 0], 2008000033: [0, 0, 0], np.int64(12): [1, 1, 1]}
    write(path, {key: row if kind is list else np.array(row, dtype=kind) for key, row in rows.items()})
    records = [record(name) for name in ("2007_000032", "a/b", "2008_000033", "000012", "x")]
    found: list[Problem] = []
    labels = cls_labels(path, records, CLASSES, True, found.append)
    assert [labels(one) for one in records] == [("ape", "cat"), ("bee",), (), CLASSES, None]
    assert found == [Problem("missing-tags", f"train.txt x: no vector for 'x' in {path}")]


def test_a_pickle_is_not_read_unasked(path: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[Path]]:
            return Path.touch, (tmp_path / "run",)

    write(path, {"a": Trap()})
    with pytest.raises(SettingsError, match=r"cls_labels\.npy: a pickle, which can run any code.*--allow_pickle true"):
        cls_labels(path, [], CLASSES, False)
    assert not (tmp_path / "run").exists()
    cls_labels(path, [], CLASSES, True)
    assert (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "cannot be read as a dictionary"),
        (3, "from names to tag vectors is expected, not int"),
        ({"a"}, "is expected, not set"),
        ({2.5: [1, 0, 0]}, "the key 2.5 is neither a name nor a number"),
    ],
)
def test_other_content(path: Path, content: Any, message: str) -> None:
    with pytest.raises(DataError, match=rf"cls_labels\.npy: .*{message}"):
        cls_labels(write(path, np.array(content, dtype=object)), [], CLASSES, True)


def test_damaged_files(path: Path, tmp_path: Path) -> None:
    write(path, {"a": np.ones(3)})
    path.write_bytes(path.read_bytes()[:-20])
    for damaged in (path, tmp_path / "gone.npy", tmp_path):
        with pytest.raises(DataError, match=f"{damaged}: cannot be read"):
            cls_labels(damaged, [], CLASSES, True)


@pytest.mark.parametrize("length", [2, 4])
def test_a_vector_has_one_number_per_class(path: Path, length: int) -> None:
    labels = cls_labels(write(path, {"a": np.zeros(length)}), [], CLASSES, True)
    with pytest.raises(DataError, match=rf"vector of 'a' has the shape \({length},\), but there are 3 classes"):
        labels(record("a"))


@pytest.mark.parametrize("vector", [[0, 0.5, 1], [0, 2, 0], [0, float("nan"), 0], "abc", [[1], [1, 2], 3]])
def test_a_vector_holds_0_and_1(path: Path, vector: Any) -> None:
    labels = cls_labels(write(path, {"a": vector}), [], CLASSES, True)
    with pytest.raises(DataError, match="the vector of 'a' holds something other than 0 and 1"):
        labels(record("a"))


def test_numbers_that_two_photographs_share(path: Path) -> None:
    records = [record("1_23"), record("12_3"), record("x")]
    with pytest.raises(DataError, match="'12_3' and '1_23' have the same number, 123"):
        cls_labels(write(path, {123: [1, 0, 0]}), records, CLASSES, True)
    assert cls_labels(write(path, {"1_23": [1, 0, 0]}), records, CLASSES, True)(records[0]) == ("ape",)


def test_round_trip(path: Path, tmp_path: Path) -> None:
    root = write_voc(tmp_path / "data", "a", "in/b", "c d", val="e")
    (root / "classes.txt").write_text("\n".join(CLASSES))
    tags = {"a": (1, 3), "in/b": (), "c d": (2,), "e": (1, 2, 3)}
    splits = [
        Split(name, tuple(Sample(one, root / f"JPEGImages/{one}.jpg", tags[one]) for one in ids))
        for name, ids in (("train", ("a", "in/b", "c d")), ("val", ("e",)))
    ]
    data = Dataset(root, CLASSES, *splits, layout="voc")
    write_cls_labels(path, data)
    assert read_voc(root, labels_npy=path, allow_pickle=True) == data
    content = np.load(path, allow_pickle=True).item()
    assert list(content) == ["a", "in/b", "c d", "e"]
    assert content["a"].dtype == np.float32


def test_vocs_classes_without_a_file_of_names(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "data", "2007_000032", "b")
    write(root / "cls_labels.npy", {2007000032: np.eye(20)[14], "b": np.eye(20)[0]})
    data = read_voc(root, labels_npy="cls_labels.npy", allow_pickle=True)
    assert (data.classes, data.sample("2007_000032").tags, data.sample("b").tags) == (VOC_CLASSES, (15,), (1,))
    with pytest.raises(SettingsError, match="labels_csv and labels_npy"):
        read_voc(root, labels_npy="cls_labels.npy", labels_csv="tags.csv", allow_pickle=True)
    with pytest.raises(DataError, match=r"gone\.npy"):
        read_voc(root, labels_npy="gone.npy", allow_pickle=True)
