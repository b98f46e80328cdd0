import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from tag2mask.cli import main
from tag2mask.data.datasets import Layout, open_dataset
from tag2mask.data.writers import Target
from tests.builders import write_shapes


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    return write_shapes(tmp_path / "shapes")


def test_check_of_a_good_data_set(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(shapes), "--json", str(tmp_path / "check.json")]) == 0
    output = capsys.readouterr()
    assert output.out.startswith(f"{shapes}: layout voc, 2 classes")
    assert output.out.endswith("no problems\n")
    assert "reading: 9/9" in output.err
    assert json.loads((tmp_path / "check.json").read_text())["ok"] is True


def test_check_of_a_bad_data_set(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shapes / "JPEGImages/shape_03.png").write_bytes(b"")
    (shapes / "SegmentationClass/shape_04.png").write_bytes(b"no mask")
    assert main(["data", "check", str(shapes), "--threads", "1", "--json", str(tmp_path / "check.json")]) == 1
    out = capsys.readouterr().out
    assert "problems: 2" in out
    assert "shape_03.png" in out
    kinds = [problem["kind"] for problem in json.loads((tmp_path / "check.json").read_text())["problems"]]
    assert sorted(kinds) == ["empty-file", "unreadable-mask"]


def test_check_of_an_unusable_data_set_tells_what_was_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "labels.csv").write_text("image_path,label\na.jpg,cat\nb.jpg,dog\n")
    assert main(["data", "check", str(tmp_path), "--json", str(tmp_path / "check.json")]) == 2
    output = capsys.readouterr()
    lines = [f"{tmp_path / 'labels.csv'} line {line}: there is no photograph" for line in (2, 3)]
    assert output.out.startswith("problems: 2\n")
    assert all(line in output.out for line in lines)
    assert output.err.startswith(f"tag2mask: error: {tmp_path}: the list 'train' names no photograph")
    written = json.loads((tmp_path / "check.json").read_text())
    assert written["ok"] is False
    assert written["error"] in output.err
    assert [problem["kind"] for problem in written["problems"]] == ["missing-photograph"] * 2


def test_options_reach_the_reader(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shapes / "ImageSets/Segmentation/few.txt").write_text("shape_06\nshape_07\nshape_08\n")
    assert main(["data", "check", str(shapes), "--train_list", "few", "--val_list", "train"]) == 0
    assert re.search("^list +few +train\nphotographs +3 +6$", capsys.readouterr().out, re.MULTILINE)
    assert main(["data", "convert", str(shapes), str(tmp_path / "npy"), "--to", "npy"]) == 0
    labels = ["--labels_npy", "cls_labels.npy"]
    assert main(["data", "check", str(tmp_path / "npy"), *labels, "--allow_pickle"]) == 0
    assert main(["data", "check", str(tmp_path / "npy"), *labels, "--allow_pickle", "true"]) == 0
    assert main(["data", "check", str(tmp_path / "npy"), *labels]) == 2
    assert "--allow_pickle" in capsys.readouterr().err


def test_convert(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "photos"
    assert main(["data", "convert", str(shapes), str(target), "--to", "csv", "--link"]) == 0
    output = capsys.readouterr()
    assert output.out == f"written: {target}\n"
    assert open_dataset(target).layout == "csv"
    assert (target / "shape_00.png").samefile(shapes / "JPEGImages/shape_00.png")
    assert main(["data", "check", str(target)]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "/nowhere"], "/nowhere: there is no such folder"),
        (["check", "/nowhere", "--layout", "yolo"], "unknown layout 'yolo'; choices: auto, voc"),
        (["convert", "/nowhere", "x", "--to", "coco"], "/nowhere: there is no such folder"),
        (["convert", "/nowhere", "x", "--to", "yolo"], "unknown layout to write 'yolo'; choices: csv, one-hot"),
    ],
)
def test_errors_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", *words]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err


def test_what_is_lost_is_told_on_standard_error(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tags = (shapes / "tags.csv").read_text()
    (shapes / "tags.csv").write_text(tags.replace('"disc,square"', "disc"))
    assert main(["data", "convert", str(shapes), str(tmp_path / "folders"), "--to", "folders"]) == 0
    assert "9 true masks are left out" in capsys.readouterr().err


def test_help_names_every_layout(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["check", "--help"], ["convert", "--help"]):
        with pytest.raises(SystemExit):
            main(["data", *words])
        text = capsys.readouterr().out
        assert all(layout in text for layout in get_args(Layout))
    assert all(target in text for target in get_args(Target))


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict"])
def test_a_name_that_is_no_text(tmp_path: Path, encoding: str) -> None:
    root = write_shapes(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")))
    (root / "JPEGImages/shape_01.png").write_bytes(b"")
    command = [sys.executable, "-m", "tag2mask.cli", "data", "check", str(root), "--threads", "1"]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "check.json")],
        check=False,
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert (done.returncode, b"Traceback" in done.stderr) == (1, False)
    assert rb"caf\udce9/JPEGImages/shape_01.png: the file has no content" in done.stdout
    assert json.loads((tmp_path / "check.json").read_bytes())["root"] == str(root)


def test_neither_command_waits_for_torch(shapes: Path) -> None:
    code = "import sys; from tag2mask.cli import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    words = ["data", "check", str(shapes)]
    assert subprocess.run([sys.executable, "-c", code, *words], check=False, capture_output=True).returncode == 0
