from pathlib import Path

import pytest

from tag2mask.api.study_dcp import study_dcp
from tag2mask.engine.workspace import Workspace
from tag2mask.errors import SettingsError, WorkspaceError
from tests.builders import write_shapes


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"config": "small/psa"}, r"unknown setting 'affinity.*settings of the method dcp; config: small/psa"),
        ({"config": "small/none"}, "no such preset"),
        ({"blocks": ["blocks.5", "layer4"]}, "'layer4'.*blocks.5"),
        ({"classes": ["dog"]}, "unknown class 'dog'; choices: disc, square"),
        ({"photographs": 0}, "photographs: 0 must be above 0"),
        ({"patterns__long_side": -1}, "patterns.long_side"),
    ],
)
def test_bad_input_is_told_in_a_line_and_leaves_nothing(given: dict[str, object], told: str, tmp_path: Path) -> None:
    root = write_shapes(tmp_path / "data")
    with pytest.raises(SettingsError, match=told) as error:
        study_dcp(root, workspace=tmp_path / "w", out=tmp_path / "o", quiet=True, **given)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    assert not (tmp_path / "w").exists()
    assert not (tmp_path / "o").exists()


def test_a_workspace_in_use_is_told(tmp_path: Path) -> None:
    root = write_shapes(tmp_path / "data")
    with Workspace(tmp_path / "w").lock(), pytest.raises(WorkspaceError, match="another tag2mask"):
        study_dcp(root, workspace=tmp_path / "w", out=tmp_path / "o", quiet=True)
