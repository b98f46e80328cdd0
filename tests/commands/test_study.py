from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tag2mask.cli import main
from tests.builders import write_shapes


def test_options_reach_the_verb(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen: dict[str, Any] = {}

    def fake(data: str, **given: Any) -> SimpleNamespace:
        seen.update(given, data=data)
        return SimpleNamespace(folder=Path("there"), report=Path("there/report.html"))

    monkeypatch.setattr("tag2mask.api.study_superpixels.study_superpixels", fake)
    words = (
        "--data d --workspace w --out there --photographs 5 --tau 0.1 0.6 --config c.yaml --train_list l --threads 1"
    )
    assert main(["study", "superpixels", *words.split(), "--device", "cpu", "--layout", "voc"]) == 0
    machine = {name: seen.pop(name) for name in ("device", "precision", "threads")}
    assert machine == {"device": "cpu", "precision": "32-true", "threads": 1}
    assert seen == {
        "data": "d",
        "workspace": "w",
        "out": "there",
        "photographs": 5,
        "tau": [0.1, 0.6],
        "config": "c.yaml",
        "layout": "voc",
        "train_list": "l",
    }
    assert "there/report.html" in capsys.readouterr().out


def test_an_error_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_shapes(tmp_path / "data", masks=False)
    assert main(["study", "superpixels", "--data", str(root), "--workspace", str(tmp_path / "w")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("tag2mask: error: ")
    assert told.count("\n") == 1
    assert "true masks" in told


@pytest.mark.parametrize(
    ("words", "machine"), [("", {}), ("--device cpu --threads 1", {"device": "cpu", "threads": 1})]
)
def test_options_reach_the_study_of_dcp(
    words: str, machine: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, Any] = {}

    def fake(data: str, **given: Any) -> SimpleNamespace:
        seen.update(given, data=data)
        return SimpleNamespace(folder=Path("there"), report=Path("there/report.html"))

    monkeypatch.setattr("tag2mask.api.study_dcp.study_dcp", fake)
    words += " --data d --workspace w --out there --blocks a b --classes dog sheep --photographs 3 --train_list l"
    assert main(["study", "dcp", *words.split()]) == 0
    # A machine's setting that is not given is the configuration's.
    assert seen == machine | {
        "data": "d",
        "workspace": "w",
        "out": "there",
        "config": "small/dcp",
        "blocks": ["a", "b"],
        "classes": ["dog", "sheep"],
        "photographs": 3,
        "layout": "auto",
        "train_list": "l",
    }
    assert "there/report.html" in capsys.readouterr().out


def test_an_unknown_block_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_shapes(tmp_path / "data")
    words = ["--data", str(root), "--workspace", str(tmp_path / "w"), "--blocks", "blocks.77"]
    assert main(["study", "dcp", *words]) == 2
    told = capsys.readouterr().err
    assert told.startswith("tag2mask: error: unknown block")
    assert told.count("\n") == 1
