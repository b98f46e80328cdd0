import json
from pathlib import Path

import pytest

from tag2mask.cli import main
from tests.runs.conftest import root  # noqa: F401  (a fixture)
from tests.runs.workspaces import everything

Capture = pytest.CaptureFixture[str]


def test_list(root: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    assert main(["workspace", "list", str(root)]) == 0
    text = capsys.readouterr().out
    assert "cam-aa01" in text
    assert "val mIoU 32.4" in text
    assert main(["workspace", "list", str(root), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [run["name"] for run in content["runs"]] == ["cam-bb", "cam-aa02", "cam-aa01"]
    root.rename(root.with_name("workspace"))
    monkeypatch.chdir(root.parent)
    assert main(["workspace", "list"]) == 0
    assert capsys.readouterr().out.replace("prune workspace", f"prune {root}") == text


def test_prune(root: Path, capsys: Capture) -> None:  # noqa: F811
    before = everything(root)
    words = ["workspace", "prune", str(root), "--run", "cam-aa01", "--run", "cam-aa02", "--unfinished"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "nothing was deleted; --yes deletes it" in shown
    assert everything(root) == before
    assert main([*words, "--yes"]) == 0
    deleted = capsys.readouterr().out
    assert deleted == shown.replace("nothing was deleted; --yes deletes it", "deleted")
    assert everything(root) == {"runs", "stages", "digests.json", ".lock"}


def test_what_is_no_workspace_is_one_line(tmp_path: Path, capsys: Capture) -> None:
    for words in (["list"], ["prune"], ["prune", "--yes"]):
        assert main(["workspace", words[0], str(tmp_path), *words[1:]]) == 2
        assert capsys.readouterr().err.startswith(f"tag2mask: error: {tmp_path}: not a workspace")


def test_a_command_is_needed(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["workspace"])
    assert stop.value.code == 2
    with pytest.raises(SystemExit):
        main(["workspace", "prune", "--help"])
    assert "--unfinished" in capsys.readouterr().out
