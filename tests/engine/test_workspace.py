import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tag2mask.engine.workspace import Workspace, cpu_count
from tag2mask.errors import WorkspaceError


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
    content[str(path.resolve())][2] = "remembered"
    stored.write_text(json.dumps(content))
    assert Workspace(tmp_path / "ws").digest(path) == "remembered"
    stored.write_text("{ damaged")
    assert Workspace(tmp_path / "ws").digest(path) != "remembered"


def test_cpu_count() -> None:
    assert 1 <= cpu_count() <= (os.cpu_count() or 1)


def test_the_same_workspace_may_lock_again_inside(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with workspace.lock():
        with workspace.lock():
            pass
        with pytest.raises(WorkspaceError, match="another"), Workspace(tmp_path).lock():
            pass
