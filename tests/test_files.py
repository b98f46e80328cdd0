from pathlib import Path

import pytest

from tag2mask.files import atomic_path, folder_size, write_bytes, write_json


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


def test_json_and_sizes(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": "ü", "a": 1})
    assert (tmp_path / "a.json").read_text() == '{\n  "b": "ü",\n  "a": 1\n}\n'
    write_bytes(tmp_path / "x" / "y", b"12345")
    assert folder_size(tmp_path / "x") == 5
