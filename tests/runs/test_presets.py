import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tag2mask.base.settings import canonical
from tag2mask.errors import SettingsError
from tag2mask.methods.registry import DEFAULT_METHOD, METHODS
from tag2mask.runs.presets import PRESETS, choose, preset_names, preset_path, resolve
from tag2mask.runs.settings import method_parser, parse_arguments, setting_names

EVERYTHING = {name for method in METHODS.values() for name in setting_names(method)}


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def resolved(method: str, path: Path | str) -> dict[str, Any]:
    return resolve(preset_path(str(path)), setting_names(METHODS[method]), EVERYTHING)


def settings(method: str, path: Path | str) -> Any:
    return parse_arguments(METHODS[method], ["--data", "x", "--config", str(path)]).settings


# Finding a file.


@pytest.mark.parametrize("name", ["small/cam", "small/cam.yaml", "presets/small/cam.yaml"])
def test_a_preset_is_found_by_its_name_from_anywhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert preset_path(name) == PRESETS / "small" / "cam.yaml"
    assert settings("cam", name).segmenter.cache_features


def test_a_file_comes_before_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "small/cam.yaml", "segmenter: {label_stride: 3}\n")
    assert settings("cam", "small/cam.yaml").segmenter.label_stride == 3
    with pytest.raises(SettingsError, match=r"^--config huge/cam: no such file.*presets: .*small/cam"):
        preset_path("huge/cam")
    with pytest.raises(SettingsError, match="a folder, not a file"):
        preset_path(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"segmenter: [1, {\n", "cannot be read as YAML"),
        (b"seed: 1  # f\xfcr\n", "cannot be read as YAML"),
        (b"- 1\n", "no settings"),
        (b"", "no settings"),
        (b"[" * 5000, "cannot be read as YAML"),
    ],
)
@pytest.mark.parametrize("extended", [False, True])
def test_a_file_of_settings_that_is_none_is_named(tmp_path: Path, content: bytes, message: str, extended: bool) -> None:
    (tmp_path / "my.yaml").write_bytes(content)
    given = written(tmp_path, "mine.yaml", "extends: my.yaml\n") if extended else tmp_path / "my.yaml"
    with pytest.raises(SettingsError, match=rf"my\.yaml: {message}") as caught:
        settings("cam", given)
    assert "\n" not in str(caught.value)


# Files that extend others.


def test_own_settings_go_into_those_that_are_extended(tmp_path: Path) -> None:
    text = "extends: small/cam\nsegmenter: {training: {epochs: 3}}\ncams: {inference: {scales: [1.0]}}\n"
    mine = written(tmp_path, "my.yaml", text)
    base = canonical(settings("cam", "small/cam"))
    base["segmenter"]["training"]["epochs"] = 3
    base["cams"]["inference"]["scales"] = [1.0]
    assert canonical(settings("cam", mine)) == base


def test_a_file_is_extended_beside_the_one_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, "base/grand.yaml", "seed: 5\nbound: true\nsegmenter: {label_stride: 8, head: {width: 7}}\n")
    written(tmp_path, "base/parent.yaml", "extends: grand.yaml\nbound: false\nsegmenter: {head: {width: 9}}\n")
    written(tmp_path, "my.yaml", "extends: base/parent.yaml\nsegmenter.label_stride: 2\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    configuration = parse_arguments(METHODS["cam"], ["--data", "x", "--config", "../my.yaml"])
    assert configuration.runtime.seed == 5
    assert configuration.run.bound is False
    assert configuration.settings.segmenter.head.width == 9
    assert configuration.settings.segmenter.label_stride == 2


def test_a_preset_may_be_extended_from_below_a_folder_of_its_name(tmp_path: Path) -> None:
    mine = written(tmp_path, "small/cam.yaml", "extends: small/cam.yaml\nseeds: {background_threshold: 0.1}\n")
    assert settings("cam", mine).seeds.foreground_threshold == 0.5
    assert settings("cam", mine).seeds.background_threshold == 0.1


def test_groups_that_the_method_lacks_are_not_inherited(tmp_path: Path) -> None:
    mine = written(tmp_path, "my.yaml", "extends: small/cam\nwalk: {steps: 16}\n")
    assert {"seeds", "refinement"} <= resolved("cam", "small/cam").keys()
    assert resolved("psa", mine).keys() == {"classifier", "cams", "segmenter", "prediction", "walk"}
    assert settings("psa", mine).classifier == settings("cam", "small/cam").classifier


def test_nor_are_settings_that_a_group_of_the_method_lacks(tmp_path: Path) -> None:
    written(tmp_path, "base.yaml", "segmenter: {loss: seed, label_stride: 8, scales: [1.0], cache_features: true}\n")
    mine = written(tmp_path, "my.yaml", "extends: base.yaml\n")
    known = setting_names(METHODS["masking"])
    assert "segmenter.loss" not in known
    assert "segmenter.scales" in known
    assert resolved("masking", mine)["segmenter"] == {"label_stride": 8, "scales": [1.0], "cache_features": True}
    assert "scales" not in resolved("rrm", mine)["segmenter"]


@pytest.mark.parametrize("method", ["sec", "dsrg", "superpixel"])
def test_a_group_of_another_kind_brings_no_wrong_settings(method: str, tmp_path: Path) -> None:
    plain = written(tmp_path, "plain.yaml", "extends: small/cam\n")
    # What both kinds of seeds have is inherited, and `background_threshold` is cam's alone.
    assert resolved(method, plain)["seeds"] == {"foreground_threshold": 0.5}
    own = written(tmp_path, "own.yaml", "extends: small/cam\nseeds: {foreground_threshold: 0.3}\n")
    assert settings(method, own).seeds.foreground_threshold == 0.3
    out = written(tmp_path, "out.yaml", "extends: small/cam\nwithout: [seeds]\n")
    assert "seeds" not in resolved(method, out)
    assert settings(method, out).seeds == METHODS[method].settings().seeds


def test_a_group_in_place_of_a_setting_is_not_inherited(tmp_path: Path) -> None:
    # `affinity` is a network in psa and a loss in aalr.
    mine = written(tmp_path, "my.yaml", "extends: small/psa\naffinity: {weight: 0.5}\n")
    assert resolved("aalr", mine)["affinity"] == {"weight": 0.5}
    assert settings("aalr", mine).affinity.weight == 0.5


def test_without_leaves_out_groups_and_single_settings(tmp_path: Path) -> None:
    text = "extends: small/cam\nwithout: [refinement, segmenter.training.epochs]\nrefinement: {alpha: 2}\n"
    found = resolved("cam", written(tmp_path, "my.yaml", text))
    assert found["refinement"] == {"alpha": 2}
    assert "epochs" not in found["segmenter"]["training"]
    assert found["segmenter"]["training"]["batch_size"] == 8
    # Of each file on its own: a later one may name a group again.
    written(tmp_path, "middle.yaml", "extends: small/cam\nwithout: [seeds]\n")
    again = written(tmp_path, "again.yaml", "extends: middle.yaml\nseeds: {background_threshold: 0.1}\n")
    assert resolved("cam", again)["seeds"] == {"background_threshold": 0.1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: small/cat\n", r"my\.yaml: extends small/cat: no such file, and no such preset; presets: .*/cam"),
        ("extends: .\n", r"my\.yaml: extends \.: a folder, not a file"),
        ("extends: [small/cam]\n", r"my\.yaml: extends: .*not the name of one preset or file; presets: .*small/cam"),
        ("extends: 3\n", r"my\.yaml: extends: '3' is not the name.*presets: "),
        ("extends:\n", r"my\.yaml: .*"),
        ("extends: my.yaml\n", r"my\.yaml: extends: .*circle: \S*my\.yaml -> \S*my\.yaml$"),
        ("extends: other.yaml\n", r"my\.yaml: extends: .*circle: \S*my\.yaml -> \S*other\.yaml -> \S*my\.yaml$"),
        ("extends: small/cam\nwithout: [sedes]\n", r"my\.yaml: without: 'sedes'.*choices: classifier, cams, seeds, "),
        ("extends: small/cam\nwithout: [seeds.alpha]\n", r"'seeds\.alpha'.*choices: foreground_threshold, backgr"),
        ("extends: small/cam\nwithout: [seeds.alpha.beta]\n", r"'seeds\.alpha\.beta'.*choices: "),
        ("extends: small/cam\nwithout: [seeds, seeds]\n", r"my\.yaml: without: 'seeds'.*choices: classifier, cams, r"),
        ("extends: small/cam\nwithout: seeds\n", r"my\.yaml: without: 'seeds' is no list"),
        ("extends: small/cam\nwithout: [3]\n", r"my\.yaml: without: '\[3\]' is no list"),
        ("seed: 3\nwithout: [seeds]\n", r"my\.yaml: without: .*there is no 'extends'"),
        ("extends: small/cam\nwalk: {steps: 3}\n", r"'walk.*method cam"),
        (
            "extends: small/cam\nsegmenter: {heads: {width: 3}}\n",
            r"unknown setting 'heads\.width'.*head\.width",
        ),
        ("extends: small/cam\nsegmenter: {head: {kind: dense}}\n", r"unknown segmenter\.head\.kind 'dense'; choices: "),
        ("extends: misspelt.yaml\n", r"unknown setting 'labelstride'; choices near it: segmenter\.label_stride"),
    ],
)
def test_what_is_wrong_with_extending_is_told_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    mine = written(tmp_path, "my.yaml", text)
    written(tmp_path, "other.yaml", "extends: my.yaml\n")
    written(tmp_path, "misspelt.yaml", "segmenter: {labelstride: 3}\n")
    with pytest.raises(SettingsError, match=message) as caught:
        settings("cam", mine)
    assert "\n" not in str(caught.value)


def test_values_keep_their_types_on_the_way(tmp_path: Path) -> None:
    base = "labels_csv: '1e-7'\nworkspace: '2020-01-01'\nval_csv: null\nval_list: 'no'\ntrain_list: Bäume\n"
    written(tmp_path, "base.yaml", base)
    text = "extends: base.yaml\nsegmenter: {training: {learning_rate: 1e-7}}\nbound: yes\n"
    given = ["--data", "x", "--config", str(written(tmp_path, "my.yaml", text))]
    configuration = parse_arguments(METHODS["cam"], given)
    assert configuration.run.labels_csv == "1e-7"
    assert configuration.run.workspace == "2020-01-01"
    assert configuration.run.val_csv is None
    assert configuration.run.val_list == "no"
    assert configuration.run.train_list == "Bäume"
    assert configuration.run.bound is True
    assert configuration.settings.segmenter.training.learning_rate == 1e-7


def test_anchors_and_several_files_work_with_extending(tmp_path: Path) -> None:
    text = "extends: small/dcp\nsegmenter: &mine {training: &short {epochs: 2}}\nretrain: {segmenter: *mine}\n"
    mine = written(tmp_path, "my.yaml", text)
    found = settings("dcp", mine)
    assert found.segmenter.training.epochs == found.retrain.segmenter.training.epochs == 2
    assert found.retrain.segmenter.training.batch_size == 8
    given = ["--config", str(mine), "--data", "x", "--config=small/dcp", "--segmenter.label_stride", "2"]
    later = parse_arguments(METHODS["dcp"], given).settings
    assert later.retrain.segmenter.training.epochs == 8
    assert later.segmenter.label_stride == 2


def test_printed_settings_are_resolved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = written(tmp_path, "my.yaml", "extends: small/cam\nwithout: [seeds]\n")
    with pytest.raises(SystemExit):
        parse_arguments(METHODS["cam"], ["--data", "x", "--config", str(mine), "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert not {"extends", "without", "config"} & printed.keys()
    assert printed["segmenter"]["training"]["learning_rate"] == 0.0005
    assert printed["seeds"]["foreground_threshold"] == 0.2


@pytest.mark.parametrize("method", METHODS)
def test_every_setting_has_a_name_that_can_be_inherited(method: str) -> None:
    flat = set(method_parser(METHODS[method]).get_defaults().keys(nested=True)) - {"config"}
    assert set(setting_names(METHODS[method])) == flat


@pytest.mark.parametrize("name", preset_names())
def test_every_setting_of_a_preset_is_one_of_its_method(name: str) -> None:
    def leaves(value: dict[str, Any], prefix: str = "") -> set[str]:
        found = set()
        for key, item in value.items():
            found |= leaves(item, f"{prefix}{key}.") if isinstance(item, dict) else {prefix + key}
        return found

    method = Path(name).name
    assert leaves(resolved(method, name)) <= set(setting_names(METHODS[method]))


# What a run takes that names no method.


@pytest.fixture
def presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of presets in the place of the package's, with one for the default method."""
    folder = tmp_path / "presets"
    written(folder, f"small/{DEFAULT_METHOD}.yaml", "seed: 1\n")
    monkeypatch.setattr("tag2mask.runs.presets.PRESETS", folder)
    return folder


def with_gpu(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)


def test_the_default_method_has_a_preset_for_every_machine() -> None:
    assert f"small/{DEFAULT_METHOD}" in preset_names()


def test_a_named_method_is_taken_as_it_is() -> None:
    for arguments in (["--data", "x"], ["--config", "small/psa"]):
        choice = choose("cam", arguments)
        assert (choice.method.name, list(choice.arguments), choice.note) == ("cam", arguments, "")


@pytest.mark.parametrize(
    ("gpu", "for_gpu", "words", "preset", "why"),
    [
        (False, True, [], "small", "no GPU here"),
        (True, True, [], "gpu", "with a GPU"),
        (True, False, [], "small", f"with a GPU, but there is no preset gpu/{DEFAULT_METHOD}"),
        (True, True, ["--device", "cpu"], "small", "device cpu"),
        (False, True, ["--device=cuda:1"], "gpu", "with a GPU"),
        (True, True, ["--device=cpu", "--device", "auto"], "gpu", "with a GPU"),
    ],
)
def test_without_a_name_it_is_the_default_method_with_the_preset_for_the_machine(
    gpu: bool,
    for_gpu: bool,
    words: list[str],
    preset: str,
    why: str,
    presets: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_gpu(monkeypatch, gpu)
    if for_gpu:
        written(presets, f"gpu/{DEFAULT_METHOD}.yaml", "seed: 2\n")
    choice = choose(None, ["--data", "x", *words])
    assert choice.method is METHODS[DEFAULT_METHOD]
    assert choice.note == f"method {DEFAULT_METHOD} (the default), preset {preset}/{DEFAULT_METHOD} ({why})"
    assert parse_arguments(choice.method, choice.arguments).runtime.seed == {"small": 1, "gpu": 2}[preset]


def test_a_device_that_is_none_is_told() -> None:
    with pytest.raises(SettingsError, match="'tpu' is unknown"):
        choose(None, ["--data", "x", "--device", "tpu"])


def test_a_preset_names_its_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choice = choose(None, ["--data", "x", "--config", "small/psa"])
    assert choice.method.name == "psa"
    assert choice.arguments == ("--data", "x", "--config", "small/psa")
    assert choice.note == "method psa (of the preset small/psa)"
    monkeypatch.chdir(PRESETS / "small")
    assert choose(None, ["--config=dcp.yaml"]).method.name == "dcp"
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "mine.yaml", "extends: small/rrm\n")
    written(tmp_path, "more.yaml", "extends: mine.yaml\n")
    choice = choose(None, ["--config", "more.yaml"])
    assert (choice.method.name, choice.note) == ("rrm", "method rrm (more.yaml extends preset small/rrm)")
    with pytest.raises(SettingsError, match="no such preset; presets: "):
        choose(None, ["--config", "small/cat"])


def test_the_last_of_several_files_that_names_a_method_decides(tmp_path: Path) -> None:
    plain = str(written(tmp_path, "plain.yaml", "seed: 3\n"))
    assert choose(None, ["--config", "small/psa", "--config", "small/cam", "--config", plain]).method.name == "cam"


def test_a_file_of_ones_own_goes_with_the_default_method(tmp_path: Path) -> None:
    # Whatever it is called: only presets are named after methods.
    mine = str(written(tmp_path, "cam.yaml", "seed: 3\n"))
    choice = choose(None, ["--data", "x", "--config", mine])
    assert choice.method.name == DEFAULT_METHOD
    assert choice.note == f"method {DEFAULT_METHOD} (the default), settings of {mine}"
    # With the code's defaults, as where the method is named.
    assert parse_arguments(choice.method, choice.arguments).settings == METHODS[DEFAULT_METHOD].settings()


def test_a_word_that_is_no_method_is_answered_with_those_there_are() -> None:
    choices = re.escape(", ".join(METHODS))
    with pytest.raises(SettingsError, match=rf"^unknown method 'cap'; choices: {choices}$"):
        choose("cap", ["--data", "x"])
    with pytest.raises(SettingsError, match=rf"choices: {choices}; a folder .* --data photos, in Python data='photos'"):
        choose("photos", [])
