from pathlib import Path

import pytest

from tag2mask.api.study_superpixels import read_study_settings, study_superpixels
from tag2mask.engine.workspace import Workspace
from tag2mask.errors import DataError, SettingsError, WorkspaceError
from tag2mask.study.superpixels.settings import FeatureSet, StudySettings
from tests.builders import write_shapes
from tests.study.superpixels.conftest import TRANSFORMER, tiny_settings


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
