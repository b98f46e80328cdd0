import pytest

from tag2mask.engine.environment import Runtime
from tag2mask.errors import SettingsError, WeightsError
from tag2mask.stages.backbone import BackboneSettings
from tag2mask.stages.superpixel.superpixels import SuperpixelSettings
from tag2mask.study.superpixels import contenders
from tag2mask.study.superpixels.contenders import (
    HIGHEST,
    NCUT,
    OURS,
    Row,
    build_study,
    comparison,
    nearest_parameter,
    ours_at,
)
from tag2mask.study.superpixels.settings import FeatureSet
from tests.study.superpixels.conftest import tiny_settings

RUNTIME = Runtime(device="cpu", threads=1).resolved()


def row(name: str, superpixels: float, error: float, accuracy: float) -> Row:
    scores = {
        "labelled": {
            "superpixels": superpixels,
            "undersegmentation_error": error,
            "achievable_accuracy": accuracy,
            "boundary_recall": None,
        }
    }
    return Row(name, "rule" if name == OURS else "classic", "0.1", "tau 0.1", 3, scores)


OUR_ROWS = [row(OURS, 10, 0.2, 0.9), row(OURS, 30, 0.1, 0.94)]


def test_ours_is_read_off_its_curve() -> None:
    assert ours_at(OUR_ROWS, 15, "undersegmentation_error") == pytest.approx(0.175)
    assert ours_at(OUR_ROWS, 30, "achievable_accuracy") == pytest.approx(0.94)
    assert ours_at(OUR_ROWS, 9.9, "achievable_accuracy") is None
    assert ours_at(OUR_ROWS, 31, "achievable_accuracy") is None
    assert ours_at(OUR_ROWS, 15, "boundary_recall") is None


def test_the_comparison_never_gives_ours_more_superpixels() -> None:
    rows = [*OUR_ROWS, row("SLIC", 20, 0.3, 0.8), row("LSC", 40, 0.1, 0.8), row("SEEDS", 5, 0.1, 0.8)]
    first, second = comparison(rows)
    assert (first["name"], first["superpixels"], first["ours_superpixels"]) == ("SLIC", 20, 20)
    assert first["undersegmentation_error"] == 0.3
    assert first["ours_undersegmentation_error"] == pytest.approx(0.15)
    assert (second["name"], second["superpixels"], second["ours_superpixels"]) == ("LSC", 40, 30)
    assert second["ours_achievable_accuracy"] == pytest.approx(0.94)


def test_the_nearest_number_decides_which_example_is_shown() -> None:
    assert nearest_parameter({"50": 64, "80": 27, "130": 11}, 30) == "80"


def test_everybody_takes_part_with_our_features_and_crf() -> None:
    study = build_study(tiny_settings(features={}), RUNTIME)
    names = [each.name for each in study.contenders]
    assert names[0] == OURS
    assert {HIGHEST, NCUT, "SLIC", "SEEDS", "LSC"} == set(names[1:])
    ours, highest = study.maps(OURS), study.maps(HIGHEST)
    assert ours is not None
    assert highest is not None
    assert ours.settings.features == highest.settings.features
    assert ours.parameters() == ("0", "0.3", "0.5", "0.7")  # the default tau is always there
    assert study.maps("nobody") is None


def test_without_the_package_its_rows_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise SettingsError("type this")

    monkeypatch.setattr(contenders, "find_ximgproc", missing)
    study = build_study(tiny_settings(features={}), RUNTIME)
    classic = [each for each in study.contenders if each.group == "classic"]
    assert [each.name for each in classic] == ["SLIC", "SEEDS", "LSC"]
    assert all((each.maps, each.missing, each.why) == (None, "package", "type this") for each in classic)


def test_an_algorithm_without_sizes_is_left_out() -> None:
    study = build_study(tiny_settings(features={}, slic_sizes=()), RUNTIME)
    assert "SLIC" not in [each.name for each in study.contenders]


def test_a_row_has_a_name_of_its_own() -> None:
    with pytest.raises(SettingsError, match="'Ours' is the name of another row"):
        build_study(tiny_settings(features={OURS: FeatureSet("rgb")}), RUNTIME)


def test_without_weights_for_ours_there_is_no_study() -> None:
    lost = SuperpixelSettings(backbone=BackboneSettings("vit_tiny_patch16_224", 16, weights="lost.pth"))
    with pytest.raises(WeightsError, match=r"lost\.pth"):
        build_study(tiny_settings(superpixels=lost), RUNTIME)
