import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from tag2mask import __version__
from tag2mask.cli import RUN_HELP, _spelled, main
from tag2mask.methods.registry import DEFAULT_METHOD
from tests.builders import write_shapes

METHOD_NAMES = "cam, sec, dsrg, psa, ssdd, dcp, masking, superpixel, rrm, aalr, supervised"


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["run", "cam", "--help"], ["predict", "--help"]])
def test_help_is_written_for_people(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 0
    assert "tag2mask" in capsys.readouterr().out


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    for command in ("demo", "run", "predict", "evaluate", "workspace", "list-methods", "list-backbones"):
        assert f"\n    {command} " in out or f"\n    {command}\n" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "cap", "--data", "x"], f"unknown method 'cap'; choices: {METHOD_NAMES}"),
        (["run", "photos"], f"choices: {METHOD_NAMES}; a folder of photographs is given as data: --data photos"),
        (["run", "cam", "sec", "--data", "x"], f"a method stands right after 'run': {METHOD_NAMES}"),
        (["run", "--data", "x", "--config", "small/cat"], "presets: "),
        (["run", "--data", "x", "--device", "tpu"], "device: 'tpu' is unknown"),
        (["run", "cam", "--data", "/nowhere"], "/nowhere"),
        (["run", "cam"], "data"),
        (["run", "cam", "--data", "x", "--config", "small/cat"], "presets: "),
        (["run", "cam", "--data", "x", "--segmenter.training.epoch", "3"], "segmenter.training.epochs"),
        (["run", "cam", "--data", "x", "--segmenter.training.epochs", "-3"], "epochs: -3"),
        (["run", "cam", "--data", "x", "--segmenter.training.epochs", "many"], "segmenter.training.epochs"),
        (["run", "cam", "--data", "x", "--cams.rule", "mean"], "cams.rule"),
        (["run", "cam", "--data", "x", "--device", "tpu", "--threads", "-1"], "threads"),
        (["predict", "/nowhere/model.safetensors", "x", "--out", "y"], "/nowhere/model.safetensors"),
        (["evaluate", "/nowhere/a", "/nowhere/b"], "/nowhere"),
    ],
)
def test_an_error_is_one_line_and_status_two(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("tag2mask: error: ")
    assert message in err


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--data", "x", "--help"]])
def test_run_without_a_method_shows_its_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["run", *words])
    assert stop.value.code == 0
    assert RUN_HELP in capsys.readouterr().out


def test_run_alone_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run"]) == 2
    assert RUN_HELP in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "note"),
    [
        ([], f"method {DEFAULT_METHOD} (the default), preset small/{DEFAULT_METHOD} (device cpu)"),
        (["--config", "small/dcp"], "method dcp (of the preset small/dcp)"),
    ],
)
def test_a_run_without_a_method_takes_one_and_says_which(
    words: list[str], note: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["run", "--data", "x", "--device", "cpu", *words, "--segmenter.label_stride", "3", "--print_config"])
    assert stop.value.code == 0
    shown = capsys.readouterr()
    assert shown.err == f"{note}\n"
    assert "label_stride: 3" in shown.out
    assert "cache_features: true" in shown.out


def test_a_run_without_a_method_has_all_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_shapes(tmp_path / "data")
    words = ["run", "--dry_run", "--data", str(data), "--workspace", str(tmp_path / "ws"), "--config", "small/cam"]
    assert main([*words, "--classifier.backbone.weights", "none", "--segmenter.backbone.weights", "none"]) == 0
    shown = capsys.readouterr()
    assert shown.err.startswith("method cam (of the preset small/cam)\n")
    assert "refined_labels" in shown.out
    assert not (tmp_path / "ws").exists()
    # What is wrong comes after what was chosen, in a line of its own.
    assert main(["run", "--data", "/nowhere", "--device", "cpu"]) == 2
    note, error = capsys.readouterr().err.splitlines()
    assert note.startswith(f"method {DEFAULT_METHOD} (the default)")
    assert error.startswith("tag2mask: error: /nowhere")


def test_an_unknown_key_in_a_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my.yaml").write_text("segmenter:\n  training:\n    epoch: 3\n")
    assert main(["run", "cam", "--data", "x", "--config", str(tmp_path / "my.yaml")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "epoch" in err


def test_an_unknown_backbone_names_choices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shapes(tmp_path / "data")
    words = ["run", "cam", "--data", str(tmp_path / "data"), "--workspace", str(tmp_path / "ws")]
    assert main([*words, "--classifier.backbone.name", "resnet51"]) == 2
    err = capsys.readouterr().err
    assert "resnet51" in err
    assert "resnet50" in err


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("segmenter.backbone.block", "blocks.77"),
        ("classifier.backbone.frozen_until", "layer9"),
        ("segmenter.backbone.frozen_until", "bocks.2"),
    ],
)
def test_a_misspelt_block_is_told_before_anything_runs(
    setting: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shapes(tmp_path / "data")
    words = ["run", "cam", "--data", str(tmp_path / "data"), "--workspace", str(tmp_path / "ws")]
    assert main([*words, f"--{setting}", value]) == 2
    err = capsys.readouterr().err
    assert value in err
    assert "blocks.3" in err
    assert not (tmp_path / "ws").exists()


def test_debug_shows_the_trace(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "cam", "--data", "/nowhere", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_settings_can_be_printed_as_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "cam", "--data", "x", "--config", "small/cam", "--print_config"])
    assert "cache_features: true" in capsys.readouterr().out


def test_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list-methods"]) == 0
    assert "supervised" in capsys.readouterr().out
    assert main(["list-backbones"]) == 0
    out = capsys.readouterr().out
    assert "tf_efficientnet_lite0" in out
    assert "vgg16" in out
    assert main(["list-backbones", "resnet1*"]) == 0
    assert "resnet101" in capsys.readouterr().out


def test_listing_a_workspace_does_not_wait_for_torch(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    code = "import sys; from tag2mask.cli import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    words = [sys.executable, "-c", code, "workspace", "list", str(tmp_path)]
    assert subprocess.run(words, check=False, capture_output=True).returncode == 0


def test_ctrl_c_is_no_trace(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("tag2mask.cli._dispatch", interrupted)
    assert main(["list-methods"]) == 130
    assert "goes on from here" in capsys.readouterr().err


class OutOfMemoryError(RuntimeError):
    """Called as torch's, of a GPU."""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "the memory is full"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
            "the memory is full",
        ),
        (OutOfMemoryError("CUDA out of memory"), "the device's memory is full"),
        (OSError(28, "No space left on device", "/disk/a.png"), "/disk/a.png: No space left on device"),
        (OSError(28, "No space left on device"), "a file: No space left on device"),
        (OSError("no number"), "no number"),
        (FloatingPointError("the loss is not finite\n at step 3"), "the loss is not finite at step 3"),
    ],
)
def test_what_a_user_can_run_into_is_no_trace(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(words: list[str]) -> int:
        raise error

    monkeypatch.setattr("tag2mask.cli._dispatch", fails)
    assert main(["list-methods"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"tag2mask: error: {message}")
    assert err.count("\n") == 1


def test_a_warning_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    def warn(words: list[str]) -> int:
        written.append(warnings.formatwarning("two\nlines", UserWarning, "file.py", 7, "source(line)"))
        return 0

    monkeypatch.setattr("tag2mask.cli._dispatch", warn)
    usual = warnings.formatwarning
    assert main(["list-methods"]) == 0
    assert written == ["tag2mask: warning: two lines\n"]
    assert warnings.formatwarning is usual


def test_a_fault_of_the_program_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(words: list[str]) -> int:
        raise AssertionError("a fault")

    monkeypatch.setattr("tag2mask.cli._dispatch", fails)
    with pytest.raises(AssertionError, match="a fault"):
        main(["list-methods"])


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys; from tag2mask.cli import _parser; _parser().format_help(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("photographs", "told"),
    [("a", "1 mask:    x/masks\n1 overlay: x/overlays\n"), ("ab", "2 masks:    x/masks\n2 overlays: x/overlays\n")],
)
def test_masks_are_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], photographs: str, told: str
) -> None:
    monkeypatch.setattr("tag2mask.api.predict.predict", lambda model, paths, out, **more: paths)
    assert main(["predict", "m", *photographs, "--out", "x"]) == 0
    assert capsys.readouterr().out == told


def test_options_may_be_spelled_either_way() -> None:
    assert _spelled(["run", "cam", "--dry-run", "--segmenter.label-stride=4", "--data", "my-photos", "-h"]) == [
        *("run", "cam", "--dry_run", "--segmenter.label_stride=4", "--data", "my-photos", "-h"),
    ]
    assert _spelled(["predict", "--no-crf", "--", "--odd-name.jpg"]) == ["predict", "--no_crf", "--", "--odd-name.jpg"]
    assert _spelled(["--config=a-b/c-d.yaml"]) == ["--config=a-b/c-d.yaml"]
