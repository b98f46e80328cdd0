"""Whatever a user can hand over or run into: one line that names the file, and nothing half-written."""

import csv
import io
import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from tag2mask.base.files import ASIDE_SUFFIX
from tag2mask.cli import main
from tag2mask.data.masks import read_mask
from tag2mask.engine.environment import Environment
from tag2mask.engine.stage import Stage
from tag2mask.networks.model_file import FORMAT, VERSION
from tests.builders import TINY, file_bytes, write_shapes
from tests.disks import fill, remount, small_disk_at

Capture = pytest.CaptureFixture[str]


def run(home: Path, data: Path, workspace: Path, *more: str) -> list[str]:
    """Command line of a run that takes seconds."""
    return [
        *("run", "cam", "--config", str(home / "tiny.yaml"), "--data", str(data), "--workspace", str(workspace)),
        *("--threads", "1", "--device", "cpu", "--pictures", "0", "--gallery", "0", *more),
    ]


def told(words: list[str], capsys: Capture) -> str:
    """The one line of an error that a command ends with."""
    capsys.readouterr()
    assert main(words) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("tag2mask: error: ")]
    assert lines == err.splitlines()[-1:], err
    return lines[0]


def check_sound(workspace: Path) -> None:
    """No half-written file, every artifact readable."""
    for path in workspace.rglob("*"):
        assert path.suffix != ASIDE_SUFFIX
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".npz":
            with np.load(path) as content:
                assert all(content[name].size >= 0 for name in content.files)
        elif path.suffix == ".safetensors":
            load_file(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, settings, the workspace `whole` of an undisturbed run and its model."""
    folder = tmp_path_factory.mktemp("home")
    write_shapes(folder / "data", train=4, val=2)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    assert main(run(folder, folder / "data", folder / "whole")) == 0
    (model,) = (folder / "whole" / "runs").glob("*/model.safetensors")
    shutil.copyfile(model, folder / "model.safetensors")
    return folder


@pytest.fixture
def data(home: Path, tmp_path: Path) -> Path:
    """A copy of the data, to be spoilt."""
    return shutil.copytree(home / "data", tmp_path / "data")


PHOTOGRAPH = "JPEGImages/shape_02"


def cut_in_half(photograph: Path) -> None:
    content = io.BytesIO()
    with Image.open(photograph.with_suffix(".png")) as image:
        image.save(content, "JPEG")
    photograph.write_bytes(content.getvalue()[: len(content.getvalue()) // 2])


def make_empty(photograph: Path) -> None:
    photograph.write_bytes(b"")


def make_text(photograph: Path) -> None:
    photograph.write_text("This is no photograph.\n")


@pytest.mark.parametrize("spoil", [cut_in_half, make_empty, make_text])
def test_a_photograph_that_cannot_be_read(home: Path, data: Path, tmp_path: Path, capsys: Capture, spoil) -> None:  # type: ignore[no-untyped-def]
    photograph = data / f"{PHOTOGRAPH}.jpg"
    spoil(photograph)
    photograph.with_suffix(".png").unlink()
    table = (data / "tags.csv").read_text()
    (data / "tags.csv").write_text(table.replace(f"{PHOTOGRAPH}.png", f"{PHOTOGRAPH}.jpg"))
    line = told(run(home, data, tmp_path / "ws"), capsys)
    assert f"{photograph}: " in line
    assert f"`tag2mask data check {data}`" in line
    assert not (tmp_path / "ws").exists()
    assert f"{photograph}: " in told(predict(home, photograph, tmp_path / "out"), capsys)
    assert not (tmp_path / "out").exists()


def test_several_bad_photographs_and_masks_are_counted(home: Path, data: Path, tmp_path: Path, capsys: Capture) -> None:
    for name in ("JPEGImages/shape_01.png", "JPEGImages/shape_05.png", "SegmentationClass/shape_00.png"):
        whole = (data / name).read_bytes()
        (data / name).write_bytes(whole[: len(whole) // 2])
    line = told(run(home, data, tmp_path / "ws"), capsys)
    assert f"{data / 'JPEGImages' / 'shape_01.png'}: " in line
    assert "3 photographs or masks cannot be used" in line
    assert not (tmp_path / "ws").exists()


def test_a_run_on_bad_data_leaves_an_old_workspace_as_it_was(
    home: Path, data: Path, tmp_path: Path, capsys: Capture
) -> None:
    """What was found sound is remembered, and nothing else has changed."""
    shutil.copytree(home / "whole", tmp_path / "ws")

    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (tmp_path / "ws").rglob("*") if path.is_file()}

    before = content()
    make_empty(data / f"{PHOTOGRAPH}.png")
    assert f"{PHOTOGRAPH}.png: " in told(run(home, data, tmp_path / "ws"), capsys)
    after = content()
    assert str(data / "JPEGImages") in after.pop(tmp_path / "ws" / "digests.json").decode()
    del before[tmp_path / "ws" / "digests.json"]
    assert after == before


def test_a_run_on_bad_data_leaves_other_folders_as_they_were(
    home: Path, data: Path, tmp_path: Path, capsys: Capture
) -> None:
    make_empty(data / f"{PHOTOGRAPH}.png")
    (tmp_path / "empty").mkdir()
    before = sorted(data.rglob("*"))
    for workspace in (tmp_path / "empty", data):
        assert f"{PHOTOGRAPH}.png: " in told(run(home, data, workspace), capsys)
    assert sorted(data.rglob("*")) == before
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_finished_run_that_is_interrupted_when_given_again(
    home: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays finished: listed with its figure, kept by prune, its report written again."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    shutil.copytree(home / "whole", tmp_path / "ws")
    (record,) = (tmp_path / "ws" / "runs").glob("*/run.json")
    before = record.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("tag2mask.api.run.run_stages", interrupt)
        assert main(run(home, home / "data", tmp_path / "ws")) == 130
    assert record.read_bytes() == before
    assert main(["report", str(record.parent)]) == 0
    capsys.readouterr()
    assert main(["workspace", "prune", str(tmp_path / "ws"), "--unfinished"]) == 0
    assert capsys.readouterr().out == "nothing to free\n"
    assert main(run(home, home / "data", tmp_path / "ws")) == 0
    assert json.loads(record.read_text())["started"] >= json.loads(before)["finished"]


def predict(home: Path, photographs: Path, out: Path, model: str = "model.safetensors") -> list[str]:
    return ["predict", str(home / model), str(photographs), "--out", str(out), "--threads", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def with_table(home: Path) -> Path:
    """A folder of photographs with odd names and a table, trained on in the workspace `ws` beside it."""
    folder = home / "table"
    names = [f'Küche, "links" {index}.png' for index in range(8)]
    (folder / "photos").mkdir(parents=True)
    rows = [("image_path", "label", "split")]
    for index, (name, source) in enumerate(
        zip(names, 2 * sorted((home / "data" / "JPEGImages").iterdir()), strict=False)
    ):
        shutil.copyfile(source, folder / "photos" / name)
        labels = "Tasse, rot; Löffel" if index % 2 else "Löffel"
        rows.append((f"photos/{name}", labels.replace(", rot", ""), "val" if index > 5 else "train"))
    with (folder / "tags.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    assert main(run(home, folder, home / "ws")) == 0
    return folder


def test_commas_and_quotation_marks_in_names(home: Path, with_table: Path) -> None:
    (folder,) = (home / "ws" / "runs").iterdir()
    record = json.loads((folder / "run.json").read_text())
    assert record["classes"] == ["Löffel", "Tasse"]
    assert record["photographs"] == {"train": 6, "val": 2}
    for path in (folder / "masks").rglob("*.png"):
        with Image.open(with_table / "photos" / path.name) as image:
            assert read_mask(path).shape == (image.height, image.width)
    assert {path.name for path in (folder / "masks").rglob("*.png")} == {f'Küche, "links" {n}.png' for n in (6, 7)}


def test_a_table_in_utf_16_is_the_same_table(home: Path, with_table: Path, tmp_path: Path, capsys: Capture) -> None:
    data = shutil.copytree(with_table, tmp_path / "table")
    text = (data / "tags.csv").read_text(encoding="utf-8")
    (data / "tags.csv").write_text(text, encoding="utf-16")
    before = file_bytes(home / "ws" / "stages")
    assert main(run(home, data, home / "ws")) == 0
    assert file_bytes(home / "ws" / "stages") == before
    assert len(list((home / "ws" / "runs").iterdir())) == 1


def test_a_table_in_latin_1_is_named(home: Path, with_table: Path, tmp_path: Path, capsys: Capture) -> None:
    data = shutil.copytree(with_table, tmp_path / "table")
    text = (data / "tags.csv").read_text(encoding="utf-8")
    (data / "tags.csv").write_text(text, encoding="latin-1")
    line = told(run(home, data, tmp_path / "ws"), capsys)
    assert str(data / "tags.csv") in line
    assert "UTF-8" in line
    assert not (tmp_path / "ws").exists()


def test_a_class_that_is_unknown(home: Path, with_table: Path, tmp_path: Path, capsys: Capture) -> None:
    data = shutil.copytree(with_table, tmp_path / "table")
    (data / "classes.txt").write_text("Löffel\nTeller\n")
    line = told(run(home, data, tmp_path / "ws"), capsys)
    assert str(data / "tags.csv") in line
    assert "Tasse" in line
    assert "Löffel, Teller" in line
    assert not (tmp_path / "ws").exists()


def test_places_that_are_not_what_is_expected(home: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("a file")
    (tmp_path / "syntax.yaml").write_text("segmenter: [1, {\n")
    (tmp_path / "list.yaml").write_text("- 1\n- 2\n")
    (tmp_path / "latin.yaml").write_bytes("seed: 1  # für\n".encode("latin-1"))
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)))
    data, ws = home / "data", tmp_path / "ws"
    for words, name in (
        (run(home, tmp_path / "empty", ws), "empty: "),
        (run(home, tmp_path / "nowhere", ws), "nowhere: "),
        (run(home, tmp_path / "file", ws), "file: a file"),
        (run(home, data, tmp_path / "file"), "file: a file"),
        (run(home, data, tmp_path / "file" / "below"), "file"),
        (run(home, data, ws, "--config", str(tmp_path / "syntax.yaml")), "syntax.yaml"),
        (run(home, data, ws, "--config", str(tmp_path / "list.yaml")), "list.yaml"),
        (run(home, data, ws, "--config", str(tmp_path / "latin.yaml")), "latin.yaml"),
        (run(home, data, ws, "--config", str(tmp_path / "binary.yaml")), "binary.yaml"),
        (run(home, data, ws, "--config", str(tmp_path / "empty")), "empty: a folder, not a file"),
        (predict(home, tmp_path / "empty", tmp_path / "out"), "empty: "),
        (predict(home, tmp_path / "nowhere", tmp_path / "out"), "nowhere: "),
        (predict(home, data, tmp_path / "file"), "file"),
        (predict(home, data, tmp_path / "out", model=str(tmp_path / "empty")), "empty: "),
    ):
        assert name in told(words, capsys), words
        assert not ws.exists()
        assert not (tmp_path / "out").exists()


def test_the_largest_and_the_smallest_photograph(home: Path, data: Path, tmp_path: Path) -> None:
    sizes = {"huge": (6000, 4000), "dot": (1, 1)}
    for name, size in sizes.items():
        Image.new("RGB", size, (220, 60, 40)).save(data / "JPEGImages" / f"{name}.png", compress_level=1)
    with (data / "tags.csv").open("a") as file:
        file.write("JPEGImages/huge.png,disc\nJPEGImages/dot.png,square\n")
    (data / "ImageSets" / "Segmentation" / "train.txt").write_text("shape_00\nhuge\ndot\n")
    (data / "ImageSets" / "Segmentation" / "val.txt").write_text("shape_01\nhuge\ndot\n")
    shutil.rmtree(data / "SegmentationClass")
    short = (
        "--classifier.training.epochs",
        "1",
        "--segmenter.training.epochs",
        "1",
        "--refinement.crf.iterations",
        "1",
    )
    assert main(run(home, data, tmp_path / "ws", *short, "--prediction.use_crf", "false")) == 0
    masks = list((tmp_path / "ws" / "runs").glob("*/masks/*.png"))
    masks += (tmp_path / "ws" / "stages").glob("refined_labels-*/items/*.png")
    assert len(masks) == 6
    for path in masks:
        if path.stem in sizes:
            assert read_mask(path).shape[::-1] == sizes[path.stem]


@pytest.mark.parametrize(("name", "size"), [("huge", (6000, 4000)), ("dot", (1, 1))])
def test_masks_of_the_largest_and_the_smallest(home: Path, tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    Image.new("RGB", size, (220, 60, 40)).save(tmp_path / f"{name}.png", compress_level=1)
    assert main([*predict(home, tmp_path / f"{name}.png", tmp_path / "out"), "--no_crf"]) == 0
    assert read_mask(tmp_path / "out" / "masks" / f"{name}.png").shape[::-1] == size
    with Image.open(tmp_path / "out" / "overlays" / f"{name}.jpg") as image:
        assert image.size == size


def spoilt_models(home: Path) -> Iterator[tuple[str, bytes]]:
    whole = (home / "model.safetensors").read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    for length in (0, 1, 7, 8, 9, header // 2, header - 1, header, header + 1, len(whole) // 2, len(whole) - 1):
        yield f"cut_{length}", whole[:length]
    version = f'\\"version\\": {VERSION}'.encode()
    assert version in whole
    yield "version", whole.replace(version, version[:-1] + b"9")
    yield "backbone", whole.replace(b"tf_efficientnet_lite0", b"tf_inefficientnet_lit")
    yield "crf", whole.replace(b"use_crf", b"use_dog")
    yield "scales", whole.replace(b'\\"scales\\"', b'\\"snails\\"')
    yield "iterations", whole.replace(b'\\"iterations\\"', b'\\"alterations\\"'[:-4] + b'ns\\"')
    yield "text", b"This is no model.\n" * 100
    yield "random", np.random.default_rng(0).bytes(5000)


def test_models_that_are_none(home: Path, tmp_path: Path, capsys: Capture) -> None:
    models = dict(spoilt_models(home))
    (classifier,) = (home / "whole" / "stages").glob("classifier-*/model.safetensors")
    models["classifier"] = classifier.read_bytes()
    tensors = load_file(home / "model.safetensors")
    for name, metadata in {"foreign": None, "garbage": {FORMAT: "{{{"}, "bare": {FORMAT: "{}"}}.items():
        save_file(tensors, tmp_path / "other", metadata=metadata)
        models[name] = (tmp_path / "other").read_bytes()
    photograph = home / "data" / f"{PHOTOGRAPH}.png"
    for name, content in models.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        line = told(predict(home, photograph, tmp_path / "out", model=str(path)), capsys)
        assert line.startswith(f"tag2mask: error: {path}: "), line
        assert not (tmp_path / "out").exists()


def go_on(home: Path, workspace: Path) -> None:
    """The same command once more, now that there is room: it comes to what an undisturbed run has come to."""
    assert main(run(home, home / "data", workspace)) == 0
    assert file_bytes(workspace / "stages") == file_bytes(home / "whole" / "stages")
    assert run_files(workspace) == run_files(home / "whole")


def test_a_disk_that_is_too_small(home: Path, tmp_path: Path, capsys: Capture) -> None:
    with small_disk_at(tmp_path / "disk", "9m") as disk:
        line = told(run(home, home / "data", disk / "ws"), capsys)
        assert line.startswith(f"tag2mask: error: {disk / 'ws' / 'stages'}")
        assert line.endswith("checkpoint.pt: No space left on device")
        check_sound(disk / "ws")
        remount(disk, "size=200m")
        go_on(home, disk / "ws")


KB = 1000


@pytest.mark.parametrize(
    ("stage", "room", "file"),
    [
        ("classifier", 0, "classifier-*/tensorboard/*"),
        ("classifier_scores", 0, "classifier_scores-*/result.json"),
        ("cams", 9 * KB, "cams-*/items/*.npz"),
        ("seeds", 9 * KB, "seeds-*/items/*.png"),
        ("refined_labels", 0, "refined_labels-*/items/*.png"),
        ("frozen_features", 40 * KB, "frozen_features-*/items/*.safetensors"),
        ("segmenter", 1000 * KB, "segmenter-*/checkpoint.pt"),
        ("predictions", 0, "predictions-*/items/*.png"),
        ("evaluation", 0, "evaluation-*/result.json"),
    ],
)
def test_a_disk_that_becomes_full(
    home: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, stage: str, room: int, file: str
) -> None:
    """In any stage: told in a line that names the file, nothing half-written, and gone on from with more room."""
    with small_disk_at(tmp_path / "disk", "150m") as disk:
        shutil.copytree(home / "whole", disk / "ws")
        for folder in (disk / "ws" / "stages").glob(f"{stage}-*"):
            shutil.rmtree(folder)
        make = Stage.run

        def fill_and_make(self: Stage, env: Environment) -> None:
            if self.name == stage:
                fill(disk, room)
            make(self, env)

        with monkeypatch.context() as patch:
            patch.setattr(Stage, "run", fill_and_make)
            line = told(run(home, home / "data", disk / "ws"), capsys)
        named, _, reason = line.removeprefix("tag2mask: error: ").rpartition(": ")
        assert reason == "No space left on device"
        assert Path(named).match(f"ws/stages/{file}")
        check_sound(disk / "ws")
        (disk / "filler").unlink()
        go_on(home, disk / "ws")


@pytest.mark.parametrize(
    ("room", "file"),
    [(0, "run.json"), (1000 * KB, "model.safetensors"), (3020 * KB, "*.png")],
)
def test_a_disk_that_is_full_when_results_are_written(
    home: Path, tmp_path: Path, capsys: Capture, room: int, file: str
) -> None:
    with small_disk_at(tmp_path / "disk", "150m") as disk:
        shutil.copytree(home / "whole", disk / "ws")
        shutil.rmtree(disk / "ws" / "runs")
        fill(disk, room)
        line = told(run(home, home / "data", disk / "ws"), capsys)
        named, _, reason = line.removeprefix("tag2mask: error: ").rpartition(": ")
        assert reason == "No space left on device"
        assert Path(named).match(f"{file}")
        check_sound(disk / "ws")
        (disk / "filler").unlink()
        go_on(home, disk / "ws")


def run_files(workspace: Path) -> dict[str, bytes]:
    """What a run leaves for people, but for the page, which names the place and the time."""
    return {
        name: content
        for name, content in file_bytes(workspace / "runs").items()
        if not name.endswith((".html", ".yaml"))
    }


def test_a_workspace_that_cannot_be_written(home: Path, tmp_path: Path, capsys: Capture) -> None:
    with small_disk_at(tmp_path / "disk", "100m") as disk:
        shutil.copytree(home / "whole", disk / "ws")
        remount(disk, "ro")
        for workspace in (disk / "ws", disk / "new"):
            line = told(run(home, home / "data", workspace), capsys)
            assert line == f"tag2mask: error: {workspace}: cannot write to this workspace (Read-only file system)"
        assert "reading images" not in capsys.readouterr().err
        for words in (["workspace", "list", str(disk / "ws")], ["workspace", "prune", str(disk / "ws")]):
            assert main(words) == 0
        assert "cannot write" in told(["workspace", "prune", str(disk / "ws"), "--yes"], capsys)


def test_masks_on_a_disk_that_is_full_or_cannot_be_written(home: Path, tmp_path: Path, capsys: Capture) -> None:
    photographs = home / "data" / "JPEGImages"
    with small_disk_at(tmp_path / "disk", "300k") as disk:
        (disk / "out" / "masks").mkdir(parents=True)
        filler = fill(disk)
        line = told(predict(home, photographs, disk / "out"), capsys)
        assert line == f"tag2mask: error: {disk / 'out' / 'masks' / 'shape_00.png'}: No space left on device"
        assert not list(disk.rglob(f"*{ASIDE_SUFFIX}"))
        filler.unlink()
        assert main(predict(home, photographs, disk / "out")) == 0
        remount(disk, "ro")
        line = told(predict(home, photographs, disk / "out"), capsys)
        assert line == f"tag2mask: error: {disk / 'out' / 'masks' / 'shape_00.png'}: Read-only file system"
        line = told(predict(home, photographs, disk / "other"), capsys)
        assert line.startswith(f"tag2mask: error: {disk / 'other'}")


def test_data_that_cannot_be_written_is_enough(home: Path, tmp_path: Path) -> None:
    with small_disk_at(tmp_path / "disk", "10m") as disk:
        shutil.copytree(home / "data", disk / "data")
        before = {path: path.stat().st_mtime_ns for path in disk.rglob("*")}
        remount(disk, "ro")
        assert main(run(home, disk / "data", tmp_path / "ws")) == 0
        assert file_bytes(tmp_path / "ws" / "stages") == file_bytes(home / "whole" / "stages")
        assert {path: path.stat().st_mtime_ns for path in disk.rglob("*")} == before


DAMAGED = {
    "cams-*/items/shape_02.npz": "seeds-*",
    "seeds-*/items/shape_02.png": "evaluation-*",
    "classifier-*/model.safetensors": "cams-*",
    "frozen_features-*/items/shape_02.safetensors": "segmenter-*",
    "segmenter-*/model.safetensors": "predictions-*",
    "classifier_scores-*/result.json": "",
}


@pytest.mark.parametrize("artifact", DAMAGED)
def test_a_damaged_artifact_is_named_with_what_to_delete(
    home: Path, tmp_path: Path, capsys: Capture, artifact: str
) -> None:
    workspace = shutil.copytree(home / "whole", tmp_path / "ws")
    (path,) = (workspace / "stages").glob(artifact)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if DAMAGED[artifact]:  # a stage that reads it is to be made again
        for folder in (workspace / "stages").glob(DAMAGED[artifact]):
            shutil.rmtree(folder)
    line = told(run(home, home / "data", workspace), capsys)
    stage = workspace / "stages" / path.relative_to(workspace / "stages").parts[0]
    assert line.startswith(f"tag2mask: error: {path}: ")
    assert line.endswith(f"; delete the folder {stage} and run again")


def test_what_a_damaged_artifact_tells_to_do_helps(home: Path, tmp_path: Path, capsys: Capture) -> None:
    workspace = shutil.copytree(home / "whole", tmp_path / "ws")
    for name in ("predictions", "evaluation"):
        for folder in (workspace / "stages").glob(f"{name}-*"):
            shutil.rmtree(folder)
    (path,) = (workspace / "stages").glob("segmenter-*/model.safetensors")
    path.write_bytes(b"")
    line = told(run(home, home / "data", workspace), capsys)
    shutil.rmtree(line.partition("delete the folder ")[2].removesuffix(" and run again"))
    go_on(home, workspace)


def test_a_damaged_checkpoint_is_named(home: Path, tmp_path: Path, capsys: Capture) -> None:
    workspace = shutil.copytree(home / "whole", tmp_path / "ws")
    (folder,) = (workspace / "stages").glob("segmenter-*")
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "checkpoint.pt").write_bytes(b"PK\x03\x04 cut")
    line = told(run(home, home / "data", workspace), capsys)
    assert line.startswith(f"tag2mask: error: {folder / 'checkpoint.pt'}: ")
    assert "delete it" in line
    (folder / "checkpoint.pt").unlink()
    go_on(home, workspace)


def test_after_pruning_the_same_command_makes_the_same_again(home: Path, tmp_path: Path, capsys: Capture) -> None:
    workspace = shutil.copytree(home / "whole", tmp_path / "ws")
    (name,) = [path.name for path in (workspace / "runs").iterdir()]
    assert main(["workspace", "prune", str(workspace), "--run", name, "--yes"]) == 0
    assert not file_bytes(workspace)
    go_on(home, workspace)
