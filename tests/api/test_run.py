from pathlib import Path

from tag2mask.api.run import dry_run
from tag2mask.engine.progress import Reporter
from tests.builders import write_shapes
from tests.runs.test_prepare import configured


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    configuration = configured(write_shapes(tmp_path / "data"))
    forecasts, env = dry_run(configuration, Reporter(quiet=True))
    assert [item.stage.name for item in forecasts][:2] == ["classifier", "classifier_scores"]
    assert all(item.estimate is not None and item.estimate.seconds > 0 for item in forecasts)
    assert not env.workspace.root.exists()
