import errno
import gc
import json
import os
import resource
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tag2mask.engine.workspace import Workspace, reading_arrays, reading_artifact
from tag2mask.errors import DataError, WorkspaceError
from tests.disks import remount

HOLD = (
    "import sys; from pathlib import Path; from tag2mask.engine.workspace import Workspace\n"
    "with Workspace(Path(sys.argv[1])).lock():\n    print('locked', flush=True); sys.stdin.read()"
)


def test_a_second_writer_is_kept_out(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
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


def test_the_own_lock_is_not_another_processs(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with workspace.lock():
        assert not workspace.is_locked()


def test_asking_does_not_keep_a_writer_from_starting(tmp_path: Path) -> None:
    asking = (
        "import sys; from pathlib import Path; from tag2mask.engine.workspace import Workspace\n"
        "print('asking', flush=True)\nwhile True:\n    Workspace(Path(sys.argv[1])).is_locked()"
    )
    with Workspace(tmp_path).lock():
        pass
    with subprocess.Popen([sys.executable, "-c", asking, str(tmp_path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"asking\n"
        try:
            for _ in range(300):
                with Workspace(tmp_path).lock():
                    pass
        finally:
            other.kill()


def test_a_writer_waits_a_moment_for_one_that_only_checks(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        timer = threading.Timer(0.2, holder.kill)
        timer.start()
        with Workspace(tmp_path).lock():
            timer.join()


def test_who_may_only_read_sees_a_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user without write permission: nothing may be opened for writing."""
    usual = os.open

    def open_to_read(path: str | Path, flags: int, *more: int, **options: int) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY) and str(path).endswith(".lock"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return usual(path, flags, *more, **options)

    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        monkeypatch.setattr(os, "open", open_to_read)
        assert Workspace(tmp_path).is_locked()
        holder.kill()
    assert not Workspace(tmp_path).is_locked()


def test_a_lock_that_cannot_be_read_counts_as_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".lock").touch()

    def refuse(path: str | Path, *_: int) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "open", refuse)
    assert Workspace(tmp_path).is_locked()


def test_checking_leaves_nothing_in_a_folder_that_is_no_workspace(tmp_path: Path) -> None:
    Workspace(tmp_path).check_free()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_a_workspace_when_a_run_has_begun_there(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert not workspace.is_used
    (tmp_path / "runs").mkdir()
    assert not workspace.is_used
    with workspace.lock():
        assert workspace.is_used
    (tmp_path / "runs").rmdir()
    assert not workspace.is_used


def test_an_empty_disk_that_cannot_be_written(small_disk: Path) -> None:
    remount(small_disk, "ro")
    with pytest.raises(WorkspaceError, match=r"disk: cannot write to this workspace \(Read-only file system\)"):
        Workspace(small_disk).check_free()


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


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.EIO])
def test_what_the_machine_cannot_read_is_not_to_be_deleted(tmp_path: Path, number: int) -> None:
    path = tmp_path / "b.npz"
    problem = OSError(number, os.strerror(number))
    with pytest.raises(WorkspaceError) as caught, reading_artifact(path, tmp_path):
        raise problem
    assert str(caught.value) == f"{path}: cannot be read ({os.strerror(number)})"
    with pytest.raises(WorkspaceError) as caught, reading_artifact(path, tmp_path):
        raise DataError(f"{path}: cannot be opened") from problem
    assert str(caught.value) == f"{path}: cannot be opened"


def test_what_safetensors_cannot_open_is_not_to_be_deleted(tmp_path: Path) -> None:
    """It tells of any file that it cannot open as missing, and of the system's other errors without their number."""
    path = tmp_path / "b.safetensors"
    save_file({"a": torch.zeros(3)}, path)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        with pytest.raises(WorkspaceError) as caught, reading_artifact(path, tmp_path):
            load_file(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert str(caught.value).startswith(f"{path}: cannot be read (")
    assert "delete" not in str(caught.value)
    with pytest.raises(WorkspaceError) as caught, reading_artifact(tmp_path, tmp_path):
        load_file(tmp_path)
    assert "delete" not in str(caught.value)
    path.unlink()
    with pytest.raises(WorkspaceError, match="delete the folder"), reading_artifact(path, tmp_path):
        load_file(path)


@pytest.mark.parametrize(
    "problem",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        torch.OutOfMemoryError("CUDA out of memory"),
    ],
)
def test_a_full_memory_is_told_as_such(tmp_path: Path, problem: Exception) -> None:
    with pytest.raises(type(problem)) as caught, reading_artifact(tmp_path / "b.npz", tmp_path):
        raise problem
    assert caught.value is problem
    with pytest.raises(type(problem)) as caught, reading_artifact(tmp_path / "b.npz", tmp_path):
        raise DataError("b.npz: cannot be read as an image ()") from problem
    assert caught.value is problem


def test_the_same_workspace_may_lock_again_inside(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with workspace.lock():
        with workspace.lock():
            pass
        with pytest.raises(WorkspaceError, match="another"), Workspace(tmp_path).lock():
            pass


class Sleeper:
    """Garbage that hands over to another thread in the middle of what this one does."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        time.sleep(1e-5)


def test_threads_read_arrays_side_by_side(tmp_path: Path) -> None:
    """On Python 3.11 a tenth of these fail where each thread calls numpy as it likes."""
    path = tmp_path / "maps.npz"
    np.savez_compressed(path, maps=np.eye(4, dtype=np.float16), size=np.array([30, 40]))

    def read(_: int) -> list[int]:
        Sleeper()
        with reading_arrays(path, tmp_path) as content:
            assert content["maps"].trace() == 4
            return list(content["size"].tolist())

    before = gc.get_threshold()
    gc.set_threshold(20)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(read, range(1000))) == [[30, 40]] * 1000
    finally:
        gc.set_threshold(*before)


def test_arrays_that_are_damaged_or_not_there_are_named(tmp_path: Path) -> None:
    path = tmp_path / "maps.npz"
    with pytest.raises(WorkspaceError, match=r"maps\.npz.*delete the folder"), reading_arrays(path, tmp_path):
        pass
    np.savez_compressed(path, size=np.array([30, 40]))
    with pytest.raises(WorkspaceError, match=r"maps\.npz"), reading_arrays(path, tmp_path) as content:
        assert content["maps"].size
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(WorkspaceError, match=r"maps\.npz.*delete the folder"), reading_arrays(path, tmp_path):
        pass
