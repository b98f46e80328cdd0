import json

import pytest

from tag2mask.api.study_superpixels import study_superpixels
from tests.study.superpixels.conftest import Done


def test_everything_is_written(done: Done) -> None:
    out = done.result.folder
    assert {path.name for path in out.iterdir()} == {
        "report.html",
        "study.json",
        "algorithms.csv",
        "features.csv",
        "rules.csv",
        "pictures",
    }
    assert json.loads((out / "study.json").read_text()) == json.loads(json.dumps(done.result.figures))


def test_the_tables_have_their_rows(done: Done) -> None:
    tables = {title.partition(" ")[0].strip(","): rows for title, rows in done.result.figures["tables"].items()}
    assert {row["name"] for row in tables["Algorithms"]} == {"SLIC", "SEEDS", "LSC", "Ours"}
    assert [row["setting"] for row in tables["Algorithms"] if row["name"] == "Ours"] == [
        "tau 0",
        "tau 0.3",
        "tau 0.5",
        "tau 0.7",
    ]
    assert [row["setting"] for row in tables["Features"] if row["name"] == "Ours"] == ["tau 0.5"]
    assert {row["name"] for row in tables["Rules"]} == {"Ours", "Highest degree first", "Ncut"}
    scored = [row for rows in tables.values() for row in rows if not row["note"]]
    for row in scored:
        scores = row["scores"]["labelled"]
        assert 0 < scores["achievable_accuracy"] <= 1
        assert scores["superpixels"] >= 1


def test_rows_without_weights_say_so(done: Done) -> None:
    rows = done.result.figures["tables"]["Features, at as many superpixels as ours"]
    (lost,) = (row for row in rows if row["name"] == "nobody's")
    assert lost["note"].startswith("not run: weights (no installed package carries weights for 'vit_tiny_patch16_224'")
    assert lost["note"] in done.result.report.read_text().replace("&#39;", "'")


def test_ncut_stands_beside_ours_on_the_same_photographs(done: Done) -> None:
    rows = done.result.figures["tables"]["Rules, on our features"]
    assert [row["name"] for row in rows] == [*["Ours"] * 4, *["Highest degree first"] * 4, *["Ours"] * 4, *["Ncut"] * 4]
    assert [row["photographs"] for row in rows] == [4] * 8 + [3] * 8
    assert "Ncut was run on 3 photographs" in done.result.report.read_text()


def test_the_page_says_what_was_studied(done: Done) -> None:
    text = done.result.report.read_text()
    assert "4, evenly spread" in text
    assert "vit_tiny_patch16_224" in text
    assert text.count("data:image/") == 12
    assert "http" not in text.replace("http-equiv", "")


def test_a_second_run_makes_nothing_again(done: Done, capsys: pytest.CaptureFixture[str]) -> None:
    (done.root / "out" / "report.html").unlink()
    stages = sorted((done.root / "workspace" / "stages").iterdir())
    times = [(path / "stage.json").stat().st_mtime_ns for path in stages]
    result = study_superpixels(
        done.root / "data", workspace=done.root / "workspace", out=done.root / "out", settings=done.settings
    )
    assert result.report.is_file()
    assert sorted((done.root / "workspace" / "stages").iterdir()) == stages
    assert [(path / "stage.json").stat().st_mtime_ns for path in stages] == times
    assert capsys.readouterr().err.count("already there") == len(stages)
