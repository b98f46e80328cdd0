from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tag2mask.data.masks import read_mask, write_mask
from tag2mask.engine.environment import Environment
from tag2mask.engine.progress import Reporter
from tag2mask.engine.stage import Stage
from tag2mask.engine.workspace import Workspace
from tag2mask.errors import DataError, WeightsError
from tag2mask.methods.registry import METHODS
from tag2mask.runs import input_check
from tag2mask.runs.input_check import check_input
from tag2mask.runs.prepare import prepare
from tag2mask.runs.settings import as_arguments, parse_arguments
from tag2mask.stages.saliency_maps import MakeSaliencyMaps
from tests.builders import TINY, TINY_OF, write_shapes


def prepared(folder: Path) -> tuple[list[Stage], Environment]:
    given = {"data": folder / "da ta", "workspace": folder / "ws", "threads": 2, "device": "cpu", **TINY}
    env, plan = prepare(parse_arguments(METHODS["cam"], as_arguments(given)), Reporter(quiet=True))
    return plan.stages(), env


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_shapes(tmp_path / "da ta")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the photographs and masks that were decoded."""
    names: list[str] = []
    image, truth = input_check.read_image, input_check.read_truth
    monkeypatch.setattr(input_check, "read_image", lambda path: (names.append(path.name), image(path)))
    monkeypatch.setattr(
        input_check,
        "read_truth",
        lambda sample, classes: (names.append(f"mask of {sample.id}"), truth(sample, classes)),
    )
    return names


def test_everything_is_read_once_and_remembered(data: Path, tmp_path: Path, read: list[str]) -> None:
    stages, env = prepared(tmp_path)
    check_input(stages, env)
    assert sorted(read) == sorted(
        [f"shape_{n:02d}.png" for n in range(9)] + [f"mask of shape_{n:02d}" for n in range(9)]
    )
    assert not (tmp_path / "ws").exists()
    env.workspace.save_digests()
    read.clear()
    check_input(*prepared(tmp_path))
    assert read == []
    mask = data / "SegmentationClass" / "shape_06.png"
    write_mask(mask, np.zeros_like(read_mask(mask)))
    check_input(*prepared(tmp_path))
    assert read == ["mask of shape_06"]


def test_masks_that_no_stage_reads_are_not_opened(data: Path, tmp_path: Path, read: list[str]) -> None:
    given = {"data": data, "workspace": tmp_path / "ws", "threads": 2, "device": "cpu", **TINY}
    env, plan = prepare(parse_arguments(METHODS["cam"], as_arguments(given)), Reporter(quiet=True))
    check_input(plan.learning(), env)
    assert sorted(read) == [f"shape_{n:02d}.png" for n in range(9)]


def test_the_first_bad_one_is_named_and_all_are_counted(data: Path, tmp_path: Path) -> None:
    for name in ("JPEGImages/shape_07.png", "JPEGImages/shape_04.png", "SegmentationClass/shape_01.png"):
        (data / name).write_bytes((data / name).read_bytes()[:60])
    with pytest.raises(DataError) as caught:
        check_input(*prepared(tmp_path))
    assert str(caught.value).startswith(f"{data / 'JPEGImages' / 'shape_04.png'}: ")
    assert "; 3 photographs or masks cannot be used; " in str(caught.value)
    assert f"`tag2mask data check '{data}'`" in str(caught.value)


def test_the_saliency_network_is_tried_before_anything_runs(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "net.onnx").write_bytes(b"no network")
    given = {"data": data, "workspace": tmp_path / "ws", "device": "cpu", **TINY_OF["dsrg"]}
    saliency = {"saliency.source": "onnx", "saliency.path": tmp_path / "net.onnx", "seeds.background": "saliency"}
    env, plan = prepare(parse_arguments(METHODS["dsrg"], as_arguments(given | saliency)), Reporter(quiet=True))
    with pytest.raises(WeightsError, match=r"net\.onnx: not a readable ONNX file"):
        check_input(plan.stages(), env)
    assert not (tmp_path / "ws").exists()


def test_saliency_maps_are_tried_once(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in sorted((data / "JPEGImages").iterdir()):
        Image.open(path).convert("L").save(data / path.name)
    given = {"data": data, "workspace": tmp_path / "ws", "device": "cpu", **TINY_OF["dsrg"]}
    saliency = {"saliency.source": "folder", "saliency.path": data, "seeds.background": "saliency"}
    configuration = parse_arguments(METHODS["dsrg"], as_arguments(given | saliency))
    tried = []
    monkeypatch.setattr(MakeSaliencyMaps, "check", lambda self, env: tried.append(self.settings.source))
    for _ in range(2):
        env, plan = prepare(configuration, Reporter(quiet=True))
        check_input(plan.stages(), env)
        env.workspace.save_digests()
    assert tried == ["folder"]


def test_a_mask_of_another_size_is_told_early(data: Path, tmp_path: Path) -> None:
    masks = data / "SegmentationClass"
    (masks / "shape_01.png").write_bytes((masks / "shape_00.png").read_bytes())
    with pytest.raises(DataError, match=r"SegmentationClass.shape_01\.png: 64x48, but its photograph") as caught:
        check_input(*prepared(tmp_path))
    assert "photographs or masks" not in str(caught.value)


def test_equal_files_are_read_once_and_each_is_a_fault(data: Path, tmp_path: Path, read: list[str]) -> None:
    for number in (1, 4, 7):
        (data / "JPEGImages" / f"shape_{number:02d}.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        check_input(*prepared(tmp_path))
    assert str(caught.value).startswith(f"{data / 'JPEGImages' / 'shape_01.png'}: ")
    assert "; 3 photographs or masks cannot be used; " in str(caught.value)
    assert [name for name in read if name in ("shape_01.png", "shape_04.png", "shape_07.png")] == ["shape_01.png"]


def test_a_photograph_and_its_mask_are_one_fault(data: Path, tmp_path: Path) -> None:
    """A mask is held against its photograph, where a bad one is told in other words."""
    for name in ("JPEGImages/shape_04.png", "SegmentationClass/shape_04.png"):
        (data / name).write_bytes((data / name).read_bytes()[:60])
    with pytest.raises(DataError) as caught:
        check_input(*prepared(tmp_path))
    assert str(caught.value).startswith(f"{data / 'JPEGImages' / 'shape_04.png'}: ")
    assert "photographs or masks" not in str(caught.value)


def test_what_is_sound_is_kept_where_there_is_a_workspace(data: Path, tmp_path: Path, read: list[str]) -> None:
    (data / "JPEGImages" / "shape_04.png").write_bytes(b"")
    with Workspace(tmp_path / "ws").lock():
        (tmp_path / "ws" / "runs").mkdir()
    with pytest.raises(DataError):
        check_input(*prepared(tmp_path))
    assert len(read) == 18
    read.clear()
    with pytest.raises(DataError):
        check_input(*prepared(tmp_path))
    assert sorted(read) == ["mask of shape_04", "shape_04.png"]


def test_memory_that_cannot_be_kept_does_not_hide_the_fault(data: Path, tmp_path: Path) -> None:
    (data / "JPEGImages" / "shape_04.png").write_bytes(b"")
    with Workspace(tmp_path / "ws").lock():
        (tmp_path / "ws" / "runs").mkdir()
        with pytest.raises(DataError, match=r"shape_04\.png"):
            check_input(*prepared(tmp_path))
    assert not (tmp_path / "ws" / "digests.json").exists()


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_nothing_is_kept_where_there_is_no_workspace(data: Path, tmp_path: Path, name: str) -> None:
    (data / "JPEGImages" / "shape_04.png").write_bytes(b"")
    if name == "empty":
        (tmp_path / "ws").mkdir()
    stages, env = prepared(tmp_path)
    env.workspace.check_free()
    with pytest.raises(DataError):
        check_input(stages, env)
    assert list(tmp_path.rglob("ws/*")) == []
