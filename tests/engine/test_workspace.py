import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tag2mask.engine.workspace import Workspace, cpu_count, reading_artifact
from tag2mask.errors import DataError, WorkspaceError
from tests.disks import remount


def test_a_second_writer_is_kept_out(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tag2mask.engine.workspace import Workspace\n"
        "with Workspace(Path(sys.argv[1])).lock():\n    print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(WorkspaceError, match="another tag2mask"), Workspace(tmp_path).lock():
            pass
        holder.kill()
    with Workspace(tmp_path).lock():  # a killed process leaves no lock behind
        pass


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WorkspaceError, match="file"), Workspace(tmp_path / "file" / "below").lock():
        pass


def test_digests_follow_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"one")
    workspace = Workspace(tmp_path / "ws")
    first = workspace.digest(path)
    workspace.save_digests()
    assert Workspace(tmp_path / "ws").digest(path) == first
    path.write_bytes(b"two!")
    assert Workspace(tmp_path / "ws").digest(path) != first


def test_remembered_digests_spare_reading(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"one")
    workspace = Workspace(tmp_path / "ws")
    workspace.digest(path)
    workspace.save_digests()
    stored = tmp_path / "ws" / "digests.json"
    content = json.loads(stored.read_text())
    content["files"][str(path.resolve())][2] = "remembered"
    stored.write_text(json.dumps(content))
    assert Workspace(tmp_path / "ws").digest(path) == "remembered"
    for damaged in ("{ damaged", "[]", '{"files": []}', '{"files": {"a": 1}, "sound": []}'):
        stored.write_text(damaged)
        assert Workspace(tmp_path / "ws").digest(path) != "remembered"


def test_what_was_found_sound_is_remembered(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws")
    assert not workspace.is_sound("a")
    workspace.remember_sound("a")
    workspace.save_digests()
    again = Workspace(tmp_path / "ws")
    assert again.is_sound("a")
    assert not again.is_sound("b")


def test_whether_another_process_is_writing(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws")
    assert not workspace.is_locked()
    workspace.check_free()
    assert not (tmp_path / "ws").exists()
    with workspace.lock():
        assert Workspace(tmp_path / "ws").is_locked()
        with pytest.raises(WorkspaceError, match="another"):
            Workspace(tmp_path / "ws").check_free()
    assert not Workspace(tmp_path / "ws").is_locked()


def test_a_disk_that_cannot_be_written(small_disk: Path) -> None:
    with Workspace(small_disk).lock():
        pass
    remount(small_disk, "ro")
    with pytest.raises(WorkspaceError, match=r"disk: cannot write to this workspace \(Read-only file system\)"):
        Workspace(small_disk).check_free()
    assert not Workspace(small_disk).is_locked()


def test_a_file_in_the_place_of_a_workspace(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WorkspaceError, match="file: a file, but the folder"), Workspace(tmp_path / "file").lock():
        pass


@pytest.mark.parametrize("error", [OSError(2, "No such file"), EOFError(), ValueError("bad header")])
def test_a_damaged_artifact_is_told_with_what_to_delete(tmp_path: Path, error: Exception) -> None:
    stage, path = tmp_path / "cams-1", tmp_path / "cams-1" / "items" / "a" / "b.npz"
    with pytest.raises(WorkspaceError) as caught, reading_artifact(path, stage):
        raise error
    assert str(caught.value).startswith(f"{path}: cannot be read (")
    assert str(caught.value).endswith(f"; delete the folder {stage} and run again")
    with pytest.raises(WorkspaceError) as caught, reading_artifact(path, stage):
        raise DataError(f"{path}: truncated")
    assert str(caught.value) == f"{path}: truncated; delete the folder {stage} and run again"


def test_cpu_count() -> None:
    assert 1 <= cpu_count() <= (os.cpu_count() or 1)


def test_the_same_workspace_may_lock_again_inside(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with workspace.lock():
        with workspace.lock():
            pass
        with pytest.raises(WorkspaceError, match="another"), Workspace(tmp_path).lock():
            pass
