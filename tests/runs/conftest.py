"""Fixtures of the tests of runs."""

from pathlib import Path

import pytest

from tests.runs.workspaces import TAGS, VAL, run, stage


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two finished runs on one classifier, an unfinished one, a stage that nobody uses, and leftovers."""
    root = tmp_path / "ws"
    shared = stage(root, "classifier", 1, size=5000)
    first, second = stage(root, "segmenter", 2), stage(root, "segmenter", 3)
    killed = stage(root, "segmenter", 4, complete=False)
    stage(root, "cams", 5, size=7000)
    run(root, "cam-aa01", [shared, first], finished="2025-03-04T10:20:30+01:00", metrics=VAL)
    run(root, "cam-aa02", [shared, second], finished="2025-03-05T10:20:30+01:00", metrics=TAGS)
    run(root, "cam-bb", [shared, killed], state="running", started="2025-03-06T10:20:30+01:00")
    (root / "stages" / first / "items" / "b.png.part").write_bytes(bytes(300))
    (root / "stages" / "seeds-0000000000000009.part").mkdir()
    (root / "stages" / "seeds-0000000000000009.part" / "c.png").write_bytes(bytes(200))
    (root / "digests.json").write_text("{}")
    (root / ".lock").touch()
    return root
