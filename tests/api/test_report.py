from pathlib import Path

import pytest

import tag2mask
from tag2mask.errors import WorkspaceError
from tag2mask.runs.record import RUN_FILE


def test_a_run_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"run\.json: there is no such file"):
        tag2mask.report(tmp_path, quiet=True)
    (tmp_path / RUN_FILE).write_text("{")
    with pytest.raises(WorkspaceError, match=r"run\.json: not the record of a run"):
        tag2mask.report(tmp_path, quiet=True)
