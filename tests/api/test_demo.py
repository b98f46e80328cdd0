from pathlib import Path
from typing import Any

import pytest

import tag2mask


def test_demo_draws_and_runs_with_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[str, Any] = {}
    monkeypatch.setattr("tag2mask.api.demo.write_demo_data", lambda folder, progress: calls.update(drawn=folder))
    monkeypatch.setattr("tag2mask.api.demo.run", lambda *args, **more: calls.update(args=args, **more))
    tag2mask.demo(tmp_path, quiet=True, seed=3)
    assert calls["drawn"] == tmp_path / "data"
    assert calls["args"] == ("cam", tmp_path / "data")
    assert (calls["workspace"], calls["bound"], calls["seed"]) == (tmp_path / "workspace", True, 3)
    assert calls["config"] == "demo/cam"
