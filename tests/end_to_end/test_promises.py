"""What every method promises: tags only, resume, determinism, data of any kind; on small shapes and random weights."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tag2mask.base import files
from tag2mask.data.masks import read_mask, write_mask
from tag2mask.engine.environment import Environment
from tag2mask.engine.graph import distinct, run_stages
from tag2mask.engine.plan import Plan
from tag2mask.engine.progress import Reporter
from tag2mask.engine.training import TrainingStage
from tag2mask.methods.registry import METHODS
from tag2mask.runs.prepare import prepare
from tag2mask.runs.settings import as_arguments, parse_arguments
from tests.builders import TINY_OF, file_bytes, write_shapes

UNTAGGED = "shape_05"  # in the training list


def planned(method: str, data: Path, workspace: Path, **given: Any) -> tuple[Environment, Plan]:
    """A method's plan with tiny settings, and what it is made in."""
    places = {"data": data, "workspace": workspace, "threads": 1, "device": "cpu"}
    arguments = as_arguments({**TINY_OF[method], **places, **given})
    return prepare(parse_arguments(METHODS[method], arguments), Reporter(quiet=True))


def without_truth(plan: Plan) -> list[Any]:
    """The stages of a plan that open no mask; all of those of a method that trains on masks."""
    results = [stage for stage in plan.results.values() if "masks" not in stage.reads]
    return [*results, plan.predictions, plan.model, *plan.exports.values()]


def write_data(root: Path, **options: Any) -> Path:
    """The shapes, one training photograph without a tag."""
    table = write_shapes(root, **options) / "tags.csv"
    rows = table.read_text().splitlines()
    table.write_text("\n".join(f"{row.split(',')[0]}," if UNTAGGED in row else row for row in rows) + "\n")
    return root


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and, in one workspace, all stages of every method."""
    folder = tmp_path_factory.mktemp("promises")
    write_data(folder / "data")
    for method in METHODS:
        env, plan = planned(method, folder / "data", folder / "ws")
        run_stages(plan.stages(), env)
    return folder


def assert_same_stages(folder: Path, whole: Path) -> None:
    """Every file below a folder is, byte for byte, that of the same name below the other."""
    made = file_bytes(folder)
    assert any(name.endswith("model.safetensors") for name in made)
    for name, content in made.items():
        assert (whole / name).read_bytes() == content, name


@pytest.mark.parametrize("method", METHODS)
def test_tags_alone_come_to_the_same_files_again(home: Path, tmp_path: Path, method: str) -> None:
    """With no mask that could be read, in another workspace: the very files that there are with masks."""
    write_data(tmp_path / "data")
    if METHODS[method].tags_only:
        for mask in (tmp_path / "data" / "SegmentationClass").iterdir():
            mask.write_bytes(b"unreadable")
    env, plan = planned(method, tmp_path / "data", tmp_path / "ws")
    assert all("masks" not in stage.reads for stage in plan.learning()) is METHODS[method].tags_only
    run_stages(without_truth(plan), env)
    assert_same_stages(tmp_path / "ws" / "stages", home / "ws" / "stages")


class Killed(BaseException):
    """No error that anybody would catch."""


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    """Folders of stages in which the process was killed, so to speak: in each once, in its middle.

    A training dies when its third checkpoint is to take its place, a stage of a file per image at its second file.
    """
    folders: set[Path] = set()
    written: Counter[Path] = Counter()
    replace = files.os.replace

    def counted(source: Any, target: Any) -> None:
        path = Path(target)
        folder = path.parents[len(path.parts) - path.parts.index("items") - 1] if "items" in path.parts else path.parent
        if path.name == "checkpoint.pt" or "items" in path.parts:
            written[folder] += 1
            if folder not in folders and written[folder] == (3 if path.name == "checkpoint.pt" else 2):
                folders.add(folder)
                raise Killed
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", counted)
    return folders


@pytest.mark.parametrize("method", METHODS)
def test_killed_in_any_stage_it_ends_the_same(home: Path, tmp_path: Path, method: str, killed: set[Path]) -> None:
    """One kill in each stage; every run goes on from where the last one was."""
    env, plan = planned(method, home / "data", tmp_path / "ws")
    stages = distinct(plan.learning(), env)
    for _ in stages:
        try:
            run_stages([plan.predictions], env)
            break
        except Killed:
            env, plan = planned(method, home / "data", tmp_path / "ws")
    run_stages([plan.predictions], env)
    trainings = {stage.folder(env) for stage in distinct(plan.learning(), env) if isinstance(stage, TrainingStage)}
    assert trainings <= killed
    assert plan.predictions.folder(env) in killed
    assert_same_stages(tmp_path / "ws" / "stages", home / "ws" / "stages")
    assert not list((tmp_path / "ws").rglob("checkpoint.pt"))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("train", "tags"), [(1, "disc,square"), (3, "disc"), (3, "")], ids=["one photograph", "one class", "no tag"]
)
def test_little_data_is_enough(tmp_path: Path, method: str, train: int, tags: str) -> None:
    """One photograph, one class, or photographs of which none has a tag."""
    data = write_shapes(tmp_path / "data", train=train, val=1)
    table = data / "tags.csv"
    _, *rows = [row.split(",")[0] for row in table.read_text().splitlines()]
    table.write_text("\n".join(["image_path,label", *(f'{row},"{tags}"' for row in rows)]) + "\n")
    if tags == "disc":
        (data / "classes.txt").write_text("disc\n")
        for mask in (data / "SegmentationClass").iterdir():
            write_mask(mask, (read_mask(mask) == 1).astype("uint8"))
    env, plan = planned(method, data, tmp_path / "ws")
    run_stages([plan.predictions], env)
    (sample,) = env.split("val").samples
    mask = read_mask(plan.predictions.path(env, sample.id))
    assert set(mask.ravel().tolist()) <= set(range(len(env.dataset.classes) + 1))


class AsWithOneThread(Environment):
    """Several threads at work, and the fingerprints of one."""

    one: Environment

    def runtime_fingerprint(self, *, by_threads: bool) -> str:
        return self.one.runtime_fingerprint(by_threads=by_threads)


@pytest.mark.parametrize("method", METHODS)
def test_only_trainings_depend_on_the_number_of_threads(home: Path, tmp_path: Path, method: str) -> None:
    """Each stage that says so is made again, by three threads, from the inputs that it had."""
    shutil.copytree(home / "ws", tmp_path / "ws")
    one, plan = planned(method, home / "data", tmp_path / "ws")
    env = AsWithOneThread(one.dataset, one.workspace, planned(method, home / "data", tmp_path, threads=3)[0].runtime)
    env.one = one
    free = [stage for stage in distinct(plan.stages(), env) if not stage.by_threads]
    assert {stage.name for stage in distinct(plan.stages(), env) if stage.by_threads} >= {plan.model.name}
    assert not any(isinstance(stage, TrainingStage) for stage in free)
    for stage in free:
        shutil.rmtree(stage.folder(env))
        stage.run(env)
        assert file_bytes(stage.folder(env)) == file_bytes(home / "ws" / "stages" / stage.folder(env).name), stage.name
