from pathlib import Path
from typing import Any

import pytest

from tag2mask.errors import DataError, SettingsError
from tag2mask.methods.cam import CamSettings
from tag2mask.methods.registry import METHODS
from tag2mask.runs.settings import RunSettings, as_arguments, parse_arguments
from tests.builders import write_shapes

CAM = METHODS["cam"]


def parsed(*arguments: str) -> Any:
    return parse_arguments(CAM, ["--data", "photos", *arguments])


def test_without_arguments_there_are_the_defaults() -> None:
    configuration = parsed()
    assert configuration.method is CAM
    assert configuration.settings == CamSettings()
    assert configuration.run == RunSettings("photos")
    assert configuration.runtime.seed == 0


def test_arguments_override_a_file_whatever_their_depth(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("segmenter: {training: {epochs: 7, batch_size: 3}, head: {dilations: [4]}}\nseed: 5\nbound: true\n")
    configuration = parsed("--config", str(file), "--segmenter.training.epochs", "9", "--workspace=elsewhere")
    training = configuration.settings.segmenter.training
    assert (training.epochs, training.batch_size) == (9, 3)
    assert configuration.settings.segmenter.head.dilations == (4,)
    assert configuration.runtime.seed == 5
    assert configuration.run.bound is True
    assert configuration.run.workspace == "elsewhere"
    assert configuration.settings.classifier == CamSettings().classifier


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--segmenter.training.epoch", "3"], r"segmenter\.training\.epoch'.*segmenter\.training\.epochs"),
        (["--sed", "3"], "sed.*seed"),
        (["--segmenter.training.epochs", "three"], "segmenter.training.epochs"),
        (["--segmenter.training.epochs", "0"], "epochs: 0"),
        (["--classifier.backbone.output_stride", "12"], "stride 12.*8, 16, 32"),
        (["--seeds.background_threshold", "0.9"], "background_threshold"),
        (["--segmenter.rate", "3"], r"'segmenter\.rate'; choices near it: \S+, \S+, \S+$"),
        (["--segmenter.head.wide", "3"], r"choices near it: segmenter\.head\.width, segmenter\.head\."),
        (["--layout", "yolo"], "unknown layout 'yolo'; choices: auto, voc, csv, folders, coco$"),
        (
            ["--segmenter.head.kind", "dense"],
            r"unknown segmenter\.head\.kind 'dense'; choices: largefov, aspp, dilated$",
        ),
        (["--hold_out", "1"], "hold_out"),
        (["--pictures", "-1"], "pictures"),
        (["--seed", "-1"], "seed: -1"),
        (["--precision", "8-true"], "precision"),
        (["sec"], r"'sec' is neither an option nor the value of one; .* right after 'run': cam, sec, "),
    ],
)
def test_what_is_wrong_is_named_in_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        parsed(*arguments)
    assert "\n" not in str(caught.value)


def test_an_unknown_key_in_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("segmenter:\n  head:\n    widht: 3\n")
    with pytest.raises(SettingsError, match=r"widht.*width"):
        parsed("--config", str(tmp_path / "my.yaml"))


def test_data_is_needed() -> None:
    with pytest.raises(SettingsError, match="data"):
        parse_arguments(CAM, [])


def test_python_settings_become_arguments(tmp_path: Path) -> None:
    given = {
        "data": tmp_path,
        "val_csv": None,
        "bound": True,
        "hold_out": 0.25,
        "classifier__views__long_side": (48, 80),
        "cams.inference.scales": [1.0, 2.0],
        "segmenter": {"head": {"width": 16, "dilations": (2,)}},
    }
    configuration = parse_arguments(CAM, as_arguments(given))
    assert configuration.run == RunSettings(str(tmp_path), bound=True, hold_out=0.25)
    assert configuration.settings.classifier.views.long_side == (48, 80)
    assert configuration.settings.cams.inference.scales == (1.0, 2.0)
    assert configuration.settings.segmenter.head.width == 16
    assert configuration.settings.segmenter.head.dilations == (2,)
    assert configuration.settings.segmenter.loss == "cross_entropy"


def test_a_val_list_is_used_where_there_is_one(tmp_path: Path) -> None:
    root = str(write_shapes(tmp_path / "data"))
    dataset, held_out = RunSettings(root).dataset(0)
    assert not held_out
    assert [len(split) for split in dataset.splits] == [6, 3]


def test_otherwise_a_share_is_held_out(tmp_path: Path) -> None:
    root = write_shapes(tmp_path / "data", train=12, val=0)
    (root / "ImageSets" / "Segmentation" / "val.txt").unlink()
    dataset, held_out = RunSettings(str(root), hold_out=0.25).dataset(0)
    assert held_out
    assert dataset.val is not None
    assert len(dataset.val) + len(dataset.train) == 12
    assert 1 < len(dataset.val) < 6
    ids = {sample.id for sample in dataset.val}
    assert ids.isdisjoint(dataset.train.by_id)
    again, _ = RunSettings(str(root), hold_out=0.25).dataset(0)
    assert again == dataset
    with pytest.raises(DataError, match="hold_out is 0"):
        RunSettings(str(root), hold_out=0).dataset(0)
    with pytest.raises(DataError, match="too few"):
        RunSettings(str(root), hold_out=0.001).dataset(0)


def test_the_command_line_wins_wherever_the_file_stands() -> None:
    given = ["--data", "x", "--segmenter.training.epochs", "3"]
    for arguments in ([*given, "--config", "small/cam"], ["--config=small/cam", *given]):
        assert parse_arguments(METHODS["cam"], arguments).settings.segmenter.training.epochs == 3
