import json
from pathlib import Path

import pytest

from tag2mask.api.study_superpixels import read_study_settings, study_superpixels
from tag2mask.engine.workspace import Workspace
from tag2mask.errors import DataError, SettingsError, WorkspaceError
from tag2mask.study.superpixels.settings import FeatureSet, StudySettings
from tests.builders import write_shapes
from tests.study.superpixels.conftest import TRANSFORMER, Done, tiny_settings


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


def test_a_photograph_without_a_mask_is_not_studied(tmp_path: Path) -> None:
    root = write_shapes(tmp_path / "data", train=3, val=1)
    (root / "SegmentationClass" / "shape_01.png").unlink()
    settings = tiny_settings(features={"colours": FeatureSet("rgb", long_side=32)}, slic_sizes=(), lsc_sizes=())
    result = study_superpixels(
        root, workspace=tmp_path / "w", out=tmp_path / "o", settings=settings, tau=[0.5], photographs=0, quiet=True
    )
    assert result.figures["photographs"] == 2
    assert result.figures["settings"]["taus"] == [0.5]


def test_without_masks_there_is_no_study(tmp_path: Path) -> None:
    root = write_shapes(tmp_path / "data", masks=False)
    with pytest.raises(DataError, match="needs true masks"):
        study_superpixels(root, workspace=tmp_path / "w", out=tmp_path / "o", quiet=True)
    assert not (tmp_path / "w").exists()


def test_a_workspace_in_use_is_told(tmp_path: Path) -> None:
    root = write_shapes(tmp_path / "data")
    with Workspace(tmp_path / "w").lock(), pytest.raises(WorkspaceError, match="another tag2mask"):
        study_superpixels(root, workspace=tmp_path / "w", out=tmp_path / "o", settings=tiny_settings(), quiet=True)


def test_settings_from_yaml(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(
        "photographs: 3\ntaus: [0.1, 0.6]\nsuperpixels: {tau: 0.3, long_side: 224}\n"
        "features:\n  mine: {kind: keys, backbone: {name: vit_tiny_patch16_224, output_stride: 16, weights: none}}\n"
    )
    settings = read_study_settings(file)
    assert (settings.photographs, settings.taus, settings.superpixels.tau) == (3, (0.1, 0.6), 0.3)
    assert settings.features == {"mine": FeatureSet("keys", TRANSFORMER)}
    assert settings.slic_sizes == StudySettings().slic_sizes


@pytest.mark.parametrize(
    ("text", "told"), [("photograps: 3\n", "photograps"), ("taus: [2.0]\n", "taus"), ("taus: {\n", "study.yaml")]
)
def test_faults_in_yaml_are_told_with_the_file(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=told) as error:
        read_study_settings(file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_and_config_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="not both"):
        study_superpixels(tmp_path, config="a.yaml", settings=StudySettings())
