import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from tag2mask.base.files import atomic_path, folder_size, naming, write_bytes, write_json
from tests.disks import fill, remount


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.bin"
    with pytest.raises(RuntimeError, match="killed"), atomic_path(target) as aside:
        aside.write_bytes(b"half")
        raise RuntimeError("killed")
    assert list(target.parent.iterdir()) == []
    write_bytes(target, b"whole")
    assert target.read_bytes() == b"whole"
    assert [path.name for path in target.parent.iterdir()] == ["file.bin"]


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_bytes(target, b"old")
    with pytest.raises(OSError, match="full"), atomic_path(target) as aside:
        aside.write_bytes(b"new")
        raise OSError("disk full")
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize("name", [b"caf\xe9", b"\\\xe9", b"\xff\xfeu", "ü 蜂".encode()])
def test_names_of_files_come_back_from_json(tmp_path: Path, name: bytes) -> None:
    write_json(tmp_path / "a.json", {os.fsdecode(name): [os.fsdecode(name)]})
    ((key, (value,)),) = json.loads((tmp_path / "a.json").read_bytes()).items()
    assert os.fsencode(key) == os.fsencode(value) == name


def test_json_and_sizes(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": "ü", "a": 1})
    assert (tmp_path / "a.json").read_text() == '{\n  "b": "ü",\n  "a": 1\n}\n'
    write_bytes(tmp_path / "x" / "y", b"12345")
    assert folder_size(tmp_path / "x") == 5
    write_bytes(tmp_path / "large", bytes(100_000))
    (tmp_path / "x" / "link").symlink_to(tmp_path / "large")
    assert 5 < folder_size(tmp_path / "x") < 5_000


NOISE = np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)


def draw(path: Path) -> None:
    figure = Figure(figsize=(7, 7))
    figure.figimage(NOISE)
    figure.savefig(path, format="png")


WRITERS: dict[str, Callable[[Path], object]] = {
    "bytes": lambda path: path.write_bytes(bytes(400_000)),
    "torch": lambda path: torch.save({"weights": torch.zeros(100_000)}, path),
    "jpeg": lambda path: Image.fromarray(NOISE).save(path, format="JPEG", quality=95),
    "png": lambda path: Image.fromarray(NOISE).save(path, format="PNG"),
    "figure": draw,
    "copy": lambda path: shutil.copyfile(path.parents[2] / "large", path),
    "npz": lambda path: np.savez(path.open("wb"), NOISE),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_told_with_the_file(small_disk: Path, writer: str) -> None:
    (small_disk.parent / "large").write_bytes(bytes(400_000))
    write_bytes(small_disk / "deep" / "file.x", b"old")
    with (
        pytest.raises(OSError, match=r"No space left on device: '.*/deep/file\.x'"),
        atomic_path(small_disk / "deep" / "file.x") as aside,
    ):
        WRITERS[writer](aside)
    assert [path.name for path in (small_disk / "deep").iterdir()] == ["file.x"]
    assert (small_disk / "deep" / "file.x").read_bytes() == b"old"


@pytest.mark.parametrize("writer", WRITERS)
def test_a_disk_that_cannot_be_written_is_told_with_the_file(small_disk: Path, writer: str) -> None:
    (small_disk.parent / "large").write_bytes(b"x")
    (small_disk / "deep").mkdir()
    remount(small_disk, "ro")
    with (
        pytest.raises(OSError, match=r"Read-only file system: '.*/deep/file\.x'"),
        atomic_path(small_disk / "deep" / "file.x") as aside,
    ):
        WRITERS[writer](aside)


def test_a_folder_that_cannot_be_made(small_disk: Path) -> None:
    fill(small_disk)
    remount(small_disk, "ro")
    with pytest.raises(OSError, match=r"Read-only file system: '.*/new/file'"):
        write_bytes(small_disk / "new" / "file", b"x")


def test_a_file_that_cannot_be_made_has_the_name_that_was_given(tmp_path: Path) -> None:
    (tmp_path / "page.html").mkdir()
    with pytest.raises(IsADirectoryError, match=r"page\.html'$"):
        write_bytes(tmp_path / "page.html", b"x")
    with pytest.raises(OSError, match=r"'/proc/page\.html'$"):
        write_bytes(Path("/proc/page.html"), b"x")


def test_an_error_that_is_not_the_disks_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="of its own"), atomic_path(tmp_path / "x") as aside:
        aside.write_bytes(b"half")
        raise RuntimeError("of its own")
    with pytest.raises(FileNotFoundError, match="missing"), naming(tmp_path / "x"):
        (tmp_path / "missing").read_bytes()
    assert list(tmp_path.iterdir()) == []
