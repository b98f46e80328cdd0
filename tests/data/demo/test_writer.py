import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tag2mask.data.classes import voc_palette
from tag2mask.data.demo import DEMO_CLASSES, render_scene, write_demo_data, writer
from tag2mask.errors import DataError, SettingsError

SMALL = {"train": 5, "val": 2, "seed": 3, "long_side": 64}


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo_data(tmp_path_factory.mktemp("demo") / "new" / "folder", **SMALL)


def test_layout(demo: Path) -> None:
    ids = [f"demo_{i:05d}" for i in range(7)]
    assert (demo / "ImageSets/Segmentation/train.txt").read_text().split() == ids[:5]
    assert (demo / "ImageSets/Segmentation/val.txt").read_text().split() == ids[5:]
    assert (demo / "classes.txt").read_text().splitlines() == list(DEMO_CLASSES)
    assert sorted(p.stem for p in (demo / "JPEGImages").iterdir()) == ids
    assert sorted(p.name for p in (demo / "SegmentationClass").iterdir()) == [f"{i}.png" for i in ids]


def test_files_hold_the_scenes(demo: Path) -> None:
    for index in range(7):
        scene = render_scene(3, index, long_side=64)
        with Image.open(demo / f"SegmentationClass/demo_{index:05d}.png") as mask:
            assert mask.mode == "P"
            np.testing.assert_array_equal(np.asarray(mask), scene.mask)
            palette = np.array(mask.getpalette()).reshape(-1, 3)
            np.testing.assert_array_equal(palette[: len(DEMO_CLASSES) + 1], voc_palette()[: len(DEMO_CLASSES) + 1])
        with Image.open(demo / f"JPEGImages/demo_{index:05d}.jpg") as photograph:
            assert photograph.size == scene.mask.shape[::-1]
            assert np.abs(np.asarray(photograph).astype(int) - scene.image).mean() < 8


def test_tag_table_agrees_with_the_masks(demo: Path) -> None:
    with (demo / "tags.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7
    assert any("," in row["label"] for row in rows)
    for row in rows:
        assert (demo / row["image_path"]).is_file()
        name = Path(row["image_path"]).stem
        with Image.open(demo / f"SegmentationClass/{name}.png") as mask:
            present = sorted(set(np.unique(np.asarray(mask))) - {0})
        assert row["label"].split(",") == [DEMO_CLASSES[i - 1] for i in present]


def test_second_call_draws_nothing(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in demo.rglob("*")}
    monkeypatch.setattr(writer, "render_scene", lambda *_, **__: pytest.fail("drew again"))
    assert write_demo_data(demo, **SMALL) == demo
    assert {path: path.stat().st_mtime_ns for path in demo.rglob("*")} == before


def test_killed_generation_goes_on(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class KilledError(BaseException):
        pass

    def kill_at_third(done: int, total: int) -> None:
        assert total == 7
        if done == 3:
            raise KilledError

    folder = tmp_path / "demo"
    with pytest.raises(KilledError):
        write_demo_data(folder, **SMALL, progress=kill_at_third)
    assert json.loads((folder / "demo.json").read_text())["finished"] is False
    assert not (folder / "tags.csv").exists()
    # what a kill in the middle of a write leaves, and a picture whose mask never came
    (folder / "JPEGImages/demo_00004.jpg.part").write_bytes(b"\xff\xd8 half a picture")
    (folder / "SegmentationClass/demo_00001.png").unlink()
    drawn: list[int] = []

    def count(seed: int, index: int, **kwargs: int) -> object:
        drawn.append(index)
        return render_scene(seed, index, **kwargs)

    monkeypatch.setattr(writer, "render_scene", count)
    calls: list[tuple[int, int]] = []
    write_demo_data(folder, **SMALL, progress=lambda done, total: calls.append((done, total)))
    assert drawn == [1, 3, 4, 5, 6]
    assert calls == [(i, 7) for i in range(1, 8)]
    assert contents(folder) == contents(demo)


def test_killed_before_the_first_file(tmp_path: Path) -> None:
    (tmp_path / "demo.json.part").write_bytes(b"{")
    write_demo_data(tmp_path, train=1, val=0, long_side=32)
    assert not (tmp_path / "ImageSets/Segmentation/val.txt").exists()
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize(("key", "value"), [("seed", 4), ("long_side", 96), ("train", 6)])
def test_folder_of_other_settings(demo: Path, key: str, value: int) -> None:
    with pytest.raises(DataError, match=key) as caught:
        write_demo_data(demo, **{**SMALL, key: value})
    assert str(demo) in str(caught.value)


def test_folder_that_holds_something_else(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"holiday\.jpg"):
        write_demo_data(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="not a folder"):
        write_demo_data(tmp_path / "file")
    with pytest.raises(DataError, match="cannot be written"):
        write_demo_data(tmp_path / "file" / "below")


@pytest.mark.parametrize("text", ["", "[]", '{"finished": true}', '{"finished": true, "settings": 3}'])
def test_damaged_marker(tmp_path: Path, text: str) -> None:
    (tmp_path / "demo.json").write_text(text)
    with pytest.raises(DataError):
        write_demo_data(tmp_path)


@pytest.mark.parametrize(("key", "value"), [("train", 0), ("val", -1), ("seed", -1), ("long_side", 31)])
def test_impossible_numbers(tmp_path: Path, key: str, value: int) -> None:
    with pytest.raises(SettingsError, match=f"{key} must be at least"):
        write_demo_data(tmp_path, **{key: value})
    assert not list(tmp_path.iterdir())
