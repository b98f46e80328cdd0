from pathlib import Path

import pytest

from tag2mask.api.run import dry_run, run
from tag2mask.engine.progress import Reporter
from tag2mask.errors import SettingsError
from tag2mask.methods.registry import DEFAULT_METHOD, METHODS
from tag2mask.runs.settings import Configuration
from tests.builders import write_shapes
from tests.runs.test_prepare import configured


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    configuration = configured(write_shapes(tmp_path / "data"))
    forecasts, env = dry_run(configuration, Reporter(quiet=True))
    assert [item.stage.name for item in forecasts][:2] == ["classifier", "classifier_scores"]
    assert all(item.estimate is not None and item.estimate.seconds > 0 for item in forecasts)
    assert not env.workspace.root.exists()


@pytest.fixture
def configured_runs(monkeypatch: pytest.MonkeyPatch) -> list[Configuration]:
    """Gets the configuration of every run that is asked for, in place of running it."""
    found: list[Configuration] = []
    monkeypatch.setattr(
        "tag2mask.api.run.run_configuration", lambda configuration, reporter: found.append(configuration)
    )
    return found


def test_data_alone_is_enough(configured_runs: list[Configuration], capsys: pytest.CaptureFixture[str]) -> None:
    run(data="photos", device="cpu", segmenter__label_stride=3)
    (configuration,) = configured_runs
    assert configuration.method.name == DEFAULT_METHOD
    assert configuration.run.data == "photos"
    assert configuration.settings.segmenter.label_stride == 3
    assert configuration.settings.segmenter.cache_features
    note = f"method {DEFAULT_METHOD} (the default), preset small/{DEFAULT_METHOD} (device cpu)\n"
    assert capsys.readouterr().err == note
    run(data="photos", device="cpu", quiet=True)
    assert capsys.readouterr().err == ""


def test_a_method_is_named_or_comes_with_its_preset(
    configured_runs: list[Configuration], capsys: pytest.CaptureFixture[str]
) -> None:
    run("cam", "photos")
    run("cam", Path("photos"), config="small/cam")
    assert capsys.readouterr().err == ""
    run(data="photos", config="small/cam")
    assert capsys.readouterr().err == "method cam (of the preset small/cam)\n"
    plain, preset, chosen = configured_runs
    assert plain.settings == METHODS["cam"].settings()
    assert preset == chosen
    assert preset.run.data == "photos"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("photos",), r"^unknown method 'photos'; choices: cam, .*; a folder .* in Python data='photos'$"),
        ((Path("my/photos"),), r"^unknown method 'my/photos'; .* data='my/photos'$"),
        (("cap", "photos"), r"^unknown method 'cap'; choices: cam, [\w, ]*$"),
        (("cam",), "data"),
    ],
)
def test_what_is_missing_is_told(given: tuple[str, ...], message: str, configured_runs: list[Configuration]) -> None:
    with pytest.raises(SettingsError, match=message):
        run(*given)
    assert not configured_runs
