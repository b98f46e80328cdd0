import csv
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from tag2mask.data import check
from tag2mask.data.check import check_data
from tag2mask.data.findings import DataCheck, UnusableData
from tag2mask.data.masks import write_mask
from tag2mask.errors import DataError, SettingsError
from tag2mask.runs.settings import RunSettings
from tests.builders import write_shapes

Row = Sequence[str]


def noise(height: int = 40, width: int = 60, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def write_table(root: Path, rows: Sequence[Row], columns: Row = ("image_path", "label")) -> None:
    with (root / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two good photographs of two classes, to which a test adds what it is about. That they are few is let pass."""
    monkeypatch.setattr(check, "hold_out", lambda dataset, share, seed: replace(dataset, val=dataset.train))
    root = tmp_path / "photos"
    root.mkdir()
    noise(seed=1).save(root / "cat.png")
    noise(seed=2).save(root / "dog.jpg")
    (root / "classes.txt").write_text("cat\ndog\n")
    write_table(root, [("cat.png", "cat"), ("dog.jpg", "dog")])
    return root


def add(root: Path, *rows: Row, columns: Row = ("image_path", "label")) -> None:
    """Rows for photographs in addition to the two good ones."""
    good = [["cat.png", "cat"], ["dog.jpg", "dog"]]
    write_table(root, [*([*row, *[""] * (len(columns) - 2)] for row in good), *rows], columns)


def problems(found: DataCheck) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {}
    for problem in found.problems:
        kinds.setdefault(problem.kind, []).append(problem.message)
    return kinds


def notes(found: DataCheck) -> dict[str, tuple[str, ...]]:
    return {note.kind: note.names for note in found.notes}


def test_nothing_wrong(root: Path) -> None:
    found = check_data(root)
    assert found.ok
    assert found.notes == ()
    assert found.layout == "csv"
    assert found.classes == ("cat", "dog")
    assert found.formats == {"PNG": 1, "JPEG": 1}
    assert found.text().endswith("\n\nno problems")
    assert "unlabelled" not in found.text()  # no mask, no pixels


def truncate(path: Path) -> None:
    noise(200, 200).save(path)
    path.write_bytes(path.read_bytes()[:-2000])


def save_float(path: Path) -> None:
    Image.fromarray(np.full((40, 40), 0.5, dtype=np.float32)).save(path)


@pytest.mark.parametrize(
    ("name", "write", "kind", "message"),
    [
        ("cut.jpg", truncate, "unreadable-photograph", "truncated"),
        ("cut.png", truncate, "unreadable-photograph", "cut.png"),
        ("empty.jpg", Path.touch, "empty-file", "0 bytes"),
        ("letter.jpg", lambda path: path.write_text("Dear all"), "unreadable-photograph", "not an image"),
        ("depth.tif", save_float, "unreadable-photograph", "floating-point"),
    ],
)
def test_a_photograph_that_cannot_be_read(
    root: Path, name: str, write: Callable[[Path], object], kind: str, message: str
) -> None:
    write(root / name)
    add(root, (name, "cat"))
    found = check_data(root)
    ((only, messages),) = problems(found).items()
    assert only == kind
    assert len(messages) == 1
    assert messages[0].startswith(f"{root / name}: ")
    assert message in messages[0]
    assert not found.ok
    assert sum(found.formats.values()) == 2


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        (("gone.jpg", "cat"), "missing-photograph", "gone.jpg"),
        (("cat.png", "dog"), "duplicate-row", "listed already"),
        (("cow.png", "cwo"), "unknown-class", "cwo"),
        (("../cow.png", "cat"), "unsafe-id", "../cow.png"),
        (("cow.png", "cat", "more", "fields"), "bad-row", "fields"),
    ],
)
def test_what_readers_find_wrong_with_a_row(root: Path, row: Row, kind: str, message: str) -> None:
    if row[0] == "cow.png":
        noise(seed=3).save(root / "cow.png")
    add(root, row)
    found = problems(check_data(root))
    assert f"{root / 'labels.csv'} line 4" in found[kind][0]
    assert message in found[kind][0]


def test_all_problems_are_found_in_one_pass(root: Path) -> None:
    for index in range(30):
        noise(seed=index + 3).save(root / f"{index:02d}.png")
    (root / "29.png").write_bytes(b"")
    add(root, ("gone.jpg", "cat"), ("lost.jpg", "dog"), ("29.png", "cat"))
    found = check_data(root)
    kinds = problems(found)
    assert len(kinds["missing-photograph"]) == 2
    assert len(kinds["no-row"]) == 29
    assert len(kinds["empty-file"]) == 1
    text = found.text()
    assert "problems: 32" in text
    assert "(29):" in text
    assert "... and 9 more (--json has all)" in text
    assert len(found.to_dict()["problems"]) == 32


def test_masks_with_problems(root: Path) -> None:
    rows = []
    for index, name in enumerate(("wrong_size", "colour", "jpeg", "strange", "fine")):
        noise(seed=index + 10).save(root / f"{name}.png")
        rows.append((f"{name}.png", "cat", f"masks/{name}.{'jpg' if name == 'jpeg' else 'png'}"))
    (root / "masks").mkdir()
    good = np.zeros((40, 60), dtype=np.uint8)
    good[:20] = 1
    write_mask(root / "masks/wrong_size.png", good.T)
    noise().save(root / "masks/colour.png")
    Image.fromarray(good).save(root / "masks/jpeg.jpg")
    strange = good.copy()
    strange[0, 0], strange[0, 1], strange[0, 2] = 3, 200, 255
    write_mask(root / "masks/strange.png", strange)
    write_mask(root / "masks/fine.png", good)
    add(root, *rows, ("cat.png", "cat", "masks/gone.png"), columns=("image_path", "label", "mask_path"))
    found = check_data(root)
    kinds = problems(found)
    assert kinds["mask-size"] == [
        f"{root / 'masks/wrong_size.png'}: 40x60, but its photograph {root / 'wrong_size.png'} has 60x40"
    ]
    (ids,) = kinds["mask-class"]
    assert ids == f"{root / 'masks/strange.png'}: 3, 200 among the ids, but the last class is 2"
    assert [message.partition(": ")[2][:4] for message in kinds["unreadable-mask"]] == ["mask", "JPEG"]
    assert "gone.png" in kinds["missing-mask"][0]
    (train,) = found.splits
    assert train.with_mask == 5
    assert train.pixels == (3 * 1200, 3 * 1200 - 3, 0, 1)  # of the three masks that can be read


def test_a_mask_of_a_wrong_size_is_never_drawn(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.png")
    (tmp_path / "gone.png").touch()
    sizes = {"height": 200_000, "width": 200_000}
    images = [{"id": number, "file_name": name, **sizes} for number, name in enumerate(("a.png", "gone.png"))]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "all.json").write_text(json.dumps(content))
    kinds = problems(check_data(tmp_path))
    message = f"{tmp_path / 'all.json'}: image a.png: 200000x200000, but its photograph {tmp_path / 'a.png'} has 60x40"
    assert kinds["mask-size"] == [message]
    assert "unreadable-mask" not in kinds


def test_processors_are_counted_as_everywhere(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int | None] = []
    pool = check.ThreadPool
    monkeypatch.setattr(check, "cpu_count", lambda: 3)
    monkeypatch.setattr(check, "ThreadPool", lambda threads: asked.append(threads) or pool(threads))
    check_data(root)
    check_data(root, threads=2)
    assert asked == [3, 2]


def test_masks_and_tags_that_disagree_are_notes(root: Path) -> None:
    mask = np.zeros((40, 60), dtype=np.uint8)
    mask[:10], mask[10:20] = 1, 255
    write_mask(root / "mask.png", mask)
    noise(seed=3).save(root / "both.png")
    noise(seed=4).save(root / "none.png")
    rows = [("both.png", "dog", "mask.png"), ("none.png", "", "mask.png")]
    add(root, *rows, columns=("image_path", "label", "mask_path"))
    found = check_data(root)
    assert found.ok
    assert notes(found) == {
        "untagged-in-mask": ("both.png: cat", "none.png: cat"),
        "tagged-not-in-mask": ("both.png: dog",),
    }
    assert found.splits[0].pixel_shares == (0.5, 0.25, 0, 0.25)
    assert "25.00 %" in found.text()


def test_one_photograph_with_two_sets_of_tags(root: Path) -> None:
    for name in ("again.png", "other.png", "nothing.png"):
        (root / name).write_bytes((root / "cat.png").read_bytes())
    add(root, ("again.png", "cat"), ("other.png", "dog,cat"), ("nothing.png", ""))
    found = check_data(root)
    assert problems(found) == {
        "contradictory-tags": [
            f"{root / 'other.png'}: cat, dog; the same photograph in {root / 'cat.png'}: cat",
            f"{root / 'nothing.png'}: no tag; the same photograph in {root / 'cat.png'}: cat",
        ]
    }
    assert notes(found) == {"identical": ("again.png = cat.png",)}


def test_a_class_without_training_photographs_is_a_note_as_runs_train_all_the_same(root: Path) -> None:
    noise(seed=5).save(root / "cow.png")
    (root / "classes.txt").write_text("cat\ncow\ndog\n")
    columns = ("image_path", "label", "split")
    write_table(root, [("cat.png", "cat", "train"), ("dog.jpg", "dog", "train"), ("cow.png", "cow", "val")], columns)
    found = check_data(root)
    assert found.ok
    assert notes(found) == {"class-without-photographs": ("cow",)}
    assert "1 without a photograph to train on: these classes cannot be learnt (cow)" in found.text()


def test_classes_that_differ_in_case_or_white_space_alone(root: Path) -> None:
    (root / "classes.txt").unlink()
    add(root, ("cat.png", "Cat"))
    rows = [("cat.png", "Cat,hot  dog,emu"), ("dog.jpg", "cat,hotdog,Hot dog")]
    write_table(root, rows)
    found = check_data(root)
    assert found.ok
    assert notes(found) == {"similar-classes": ("'Cat' and 'cat'", "'Hot dog' and 'hot  dog' and 'hotdog'")}


@pytest.mark.parametrize(
    ("numbers", "enough"), [((1,), False), ((3, 3, 4), False), ((4, 5, 3), True)], ids=["one", "ten", "twelve"]
)
def test_too_few_photographs_to_measure_on_are_a_problem_where_a_run_refuses_them(
    tmp_path: Path, numbers: tuple[int, ...], enough: bool
) -> None:
    for label, number in enumerate(numbers):
        (tmp_path / f"class{label}").mkdir()
        for index in range(number):
            noise(seed=10 * label + index).save(tmp_path / f"class{label}/{index}.png")
    found = check_data(tmp_path)
    assert found.ok == enough
    if enough:
        assert RunSettings(str(tmp_path)).dataset(0)[1]
        return
    (message,) = problems(found)["too-few"]
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        RunSettings(str(tmp_path)).dataset(0)


def test_rows_of_background_are_told_one_by_one(root: Path) -> None:
    (root / "classes.txt").unlink()
    for name in ("a.png", "b.png"):
        noise(seed=len(name)).save(root / name)
    add(root, ("a.png", "background"), ("b.png", "dog,Background"))
    table = root / "labels.csv"
    assert problems(check_data(root))["unknown-class"] == [
        f"{table} line 4: 'background' is class 0 already and cannot be a class of its own; leave the label empty",
        f"{table} line 5: 'Background' is class 0 already and cannot be a class of its own; leave the label empty",
    ]


def save_turned(path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    noise().save(path, exif=exif)


@pytest.mark.parametrize(
    ("name", "write", "kinds"),
    [
        ("grey.png", lambda path: noise().convert("L").save(path), ["grey"]),
        ("bits.png", lambda path: noise().convert("1").save(path), ["grey"]),
        ("deep.png", lambda path: Image.fromarray(np.ones((40, 60), dtype=np.uint16)).save(path), ["sixteen-bit"]),
        ("palette.png", lambda path: noise().convert("P").save(path), ["palette"]),
        ("cmyk.jpg", lambda path: noise().convert("CMYK").save(path), ["cmyk"]),
        ("alpha.png", lambda path: noise().convert("RGBA").save(path), ["transparent"]),
        ("film.webp", lambda path: noise().save(path, save_all=True, append_images=[noise(seed=9)]), ["animated"]),
        ("film.gif", lambda path: noise().save(path, save_all=True, append_images=[noise(seed=9)]), ["animated"]),
        ("turned.jpg", save_turned, ["turned"]),
        ("tiny.png", lambda path: noise(1, 1).save(path), ["small"]),
    ],
)
def test_what_is_dealt_with_is_noted(
    root: Path, name: str, write: Callable[[Path], object], kinds: Sequence[str]
) -> None:
    write(root / name)
    add(root, (name, "cat"))
    found = check_data(root)
    assert found.ok
    got = {kind: names for kind, names in notes(found).items() if not (name.endswith("gif") and kind == "palette")}
    assert got == dict.fromkeys(kinds, (name,))
    assert f"({name})" in found.text()


def test_a_cameras_jpeg_with_a_preview_is_no_animation(root: Path) -> None:
    noise().save(root / "phone.jpg", format="MPO", save_all=True, append_images=[noise(20, 30)])
    add(root, ("phone.jpg", "cat"))
    found = check_data(root)
    assert found.notes == ()
    assert found.formats == {"JPEG": 2, "PNG": 1}


def test_large_photographs_are_noted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "LARGE", 40 * 60 - 1)
    assert notes(check_data(root)) == {"large": ("cat.png", "dog.jpg")}


def test_the_same_photograph_on_both_lists(tmp_path: Path) -> None:
    root = write_shapes(tmp_path / "shapes")
    (root / "ImageSets/Segmentation/val.txt").write_text("shape_00\nshape_07\n")
    assert notes(check_data(root)) == {"on-both-lists": ("JPEGImages/shape_00.png",)}


def test_counts_of_a_whole_data_set(tmp_path: Path) -> None:
    root = write_shapes(tmp_path / "shapes", train=6, val=3)
    done: list[tuple[int, int]] = []
    found = check_data(root, threads=2, progress=lambda *step: done.append(step))
    assert done == [(number, 9) for number in range(1, 10)]
    assert found.ok
    train, val = found.splits
    assert (train.name, train.photographs, train.with_mask) == ("train", 6, 6)
    # Photographs 0, 3, 6 have both classes; else even ones have discs and odd ones squares.
    assert train.tagged == (4, 4)
    assert train.by_tags == (0, 4, 2)
    assert train.mean_tags == pytest.approx(8 / 6)
    assert val.tagged == (2, 2)
    assert sum(val.pixel_shares or ()) == pytest.approx(1)
    sizes = found.sizes
    assert sizes is not None
    assert (sizes.smallest, sizes.largest) == ((64, 48), (69, 62))
    assert sizes.median == (69, 55)
    assert (sizes.landscape, sizes.portrait, sizes.square) == (9, 0, 0)
    assert sizes.different == 6
    lines = [line.split() for line in found.text().splitlines()]
    for line in (
        "list train val",
        "photographs 6 3",
        "with a true mask 6 (100 %) 3 (100 %)",
        "class photos train photos val pixels train pixels val",
        "disc 4 2 6.80 % 6.89 %",
        "background 86.62 % 86.45 %",
        "2 2 1",
        "mean 1.33 1.33",
        "sizes: smallest 64x48, median 69x55, largest 69x62; 6 different",
        "formats: 9 PNG",
    ):
        assert line.split() in lines


def test_everything_is_json(root: Path) -> None:
    add(root, ("gone.jpg", "cat"))
    content = json.loads(json.dumps(check_data(root).to_dict()))
    assert content["ok"] is False
    assert content["layout"] == "csv"
    assert content["classes"] == ["cat", "dog"]
    assert content["splits"][0]["tagged"] == [1, 1]
    assert content["splits"][0]["pixel_shares"] is None
    assert content["sizes"]["median"] == [60, 40]
    assert content["problems"][0]["kind"] == "missing-photograph"


def test_no_photograph_can_be_read(root: Path) -> None:
    for name in ("cat.png", "dog.jpg"):
        (root / name).write_bytes(b"")
    found = check_data(root)
    assert found.sizes is None
    assert len(found.problems) == 2
    assert "sizes" not in found.text()
    assert found.to_dict()["sizes"] is None


def test_unusable_as_a_whole(tmp_path: Path, root: Path) -> None:
    with pytest.raises(UnusableData, match="no such folder") as caught:
        check_data(tmp_path / "gone")
    assert (caught.value.problems, caught.value.text()) == ((), "")
    for name in ("cat.png", "dog.jpg"):
        (root / name).unlink()
    message = rf"^{root}: the list 'train' .*; after 2 problems, first: .*cat\.png"
    with pytest.raises(UnusableData, match=message) as caught:
        check_data(root)
    assert [problem.kind for problem in caught.value.problems] == ["missing-photograph"] * 2
    assert caught.value.to_dict()["error"] == str(caught.value)
    with pytest.raises(SettingsError, match="threads"):
        check_data(root, threads=-1)


def test_real_photographs_have_no_problems(shared_data: Path) -> None:
    found = check_data(shared_data / "voc12-small", train_list="train_2007")
    assert found.problems == ()
    assert [split.photographs for split in found.splits] == [311, 321]
    assert found.formats == {"JPEG": 632}
