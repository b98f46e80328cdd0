import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tag2mask.api.model import prediction_settings
from tag2mask.base.settings import canonical
from tag2mask.base.text import percent
from tag2mask.engine.environment import Environment
from tag2mask.engine.graph import StageRun, run_stages
from tag2mask.engine.logs import TrainingLog
from tag2mask.engine.plan import Plan
from tag2mask.engine.progress import Reporter
from tag2mask.methods.registry import METHODS
from tag2mask.networks.model_file import load_model, read_header
from tag2mask.runs.folder import RunResult, plot_training, write_run
from tag2mask.runs.prepare import prepare
from tag2mask.runs.settings import Configuration, as_arguments, parse_arguments
from tests.builders import TINY, write_shapes

Made = tuple[RunResult, Environment, Plan, list[StageRun], Configuration]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("run")
    places = {"data": write_shapes(folder / "data"), "workspace": folder / "ws", "threads": 1, "device": "cpu"}
    given = {**places, **TINY, "pictures": 3, "prediction": {"inference": {"long_side": 48}, "use_crf": False}}
    configuration = parse_arguments(METHODS["cam"], as_arguments(given))
    env, plan = prepare(configuration, Reporter(quiet=True))
    runs = run_stages(plan.stages(), env)
    return write_run(plan, runs, configuration, env), env, plan, runs, configuration


def test_run_json_tells_what_was_done(made: Made) -> None:
    result, env, plan, runs, configuration = made
    content = json.loads((result.folder / "run.json").read_text())
    assert content["method"] == "cam"
    assert content["classes"] == ["disc", "square"]
    assert content["photographs"] == {"train": 6, "val": 3}
    assert content["settings"] == canonical(configuration.settings)
    assert content["run"] == canonical(configuration.run)
    assert content["runtime"]["threads"] == 1
    assert content["versions"]["torch"]
    assert content["metrics"] == result.metrics == {name: stage.metrics(env) for name, stage in plan.results.items()}
    assert [stage["folder"] for stage in content["stages"]] == [run.stage.folder(env).name for run in runs]
    assert not any(stage["cached"] for stage in content["stages"])
    assert (result.folder / content["model"]).samefile(result.model)


def test_the_model_carries_the_runs_way_of_making_masks(made: Made) -> None:
    result, env, plan, _, configuration = made
    header = read_header(result.model)
    assert prediction_settings(header) == configuration.settings.prediction
    assert not prediction_settings(header).use_crf
    network, _ = load_model(result.model)
    original, _ = load_model(plan.model.model_path(env))
    for name, value in original.state_dict().items():
        assert np.array_equal(network.state_dict()[name].numpy(), value.numpy()), name


def test_masks_of_all_splits_stand_in_one_folder(made: Made) -> None:
    result, env, plan, runs, configuration = made
    assert env.dataset.val is not None
    assert {path.stem for path in result.masks.iterdir()} == set(env.dataset.val.by_id)
    on_train = plan.predictions.on("train")
    on_train.run(env)
    both = dataclasses.replace(plan, results={**plan.results, "masks": on_train})
    masks = write_run(both, runs, configuration, env).masks
    assert {path.stem for path in masks.iterdir()} == {*env.dataset.val.by_id, *env.dataset.train.by_id}
    for stage in (on_train, plan.predictions):
        for sample in stage.samples(env):
            assert (masks / f"{sample.id}.png").read_bytes() == stage.path(env, sample.id).read_bytes()


def test_pictures_show_photographs_stages_and_truth(made: Made) -> None:
    result, env, _, runs, _ = made
    assert all(path.is_file() for path in result.pictures)
    stages = [(run.stage.name, f"{run.stage.folder(env).name}.png") for run in runs]
    drawn = [
        "threshold_curve.png" if name == "cam_curve" else picture
        for name, picture in stages
        if name in ("classifier", "cam_curve", "segmenter")
    ]
    assert [path.name for path in result.pictures] == ["train.jpg", "val.jpg", *drawn]
    with Image.open(result.pictures[0]) as train, Image.open(result.pictures[1]) as val:
        # Three rows each; photograph, CAM, seeds, pseudo-label, truth against photograph, prediction, truth.
        assert train.size[1] == val.size[1]
        assert (train.size[0] - 6) / 5 == (val.size[0] - 6) / 3


def test_one_run_has_one_folder(made: Made) -> None:
    result, env, plan, runs, configuration = made
    before, folders = result.model.read_bytes(), sorted(env.workspace.runs.iterdir())
    again = write_run(plan, runs, configuration, env)
    assert again.folder == result.folder
    assert again.headlines == result.headlines
    assert result.headlines[0].startswith("classifier: mAP ")
    assert again.model.read_bytes() == before
    assert again.report == again.folder / "report.html"
    assert result.folder.name in again.report.read_text()
    assert sorted(env.workspace.runs.iterdir()) == folders


def test_the_summary_has_every_figure(made: Made) -> None:
    result, env, _, runs, _ = made
    text = (result.folder / "summary.md").read_text()
    assert "\n## Time per stage\n" in text
    for run in runs:
        assert run.stage.folder(env).name in text
    for name in ("seeds", "pseudo_labels", "val"):
        assert f"## {name}" in text
        assert f"- {name}: mIoU {percent(result.metrics[name]['mean_iou'])}, pixel accuracy" in text
        for label, value in result.metrics[name]["iou"].items():
            assert f"- IoU of {label}: {percent(value)}" in text
    for point in result.metrics["cam_curve"]["curve"]:
        assert f"- mIoU at threshold {point['threshold']:.2f}: {percent(point['mean_iou'])}" in text


def test_a_training_is_drawn_from_its_log(made: Made, tmp_path: Path) -> None:
    _, env, plan, _, _ = made
    drawn = tmp_path / "training.png"
    plot_training(plan.model, env, drawn)
    before = np.asarray(Image.open(drawn))
    TrainingLog(plan.model.folder(env), 100).write(100, cross_entropy=50.0, learning_rate=0.1)
    plot_training(plan.model, env, drawn)
    assert not np.array_equal(np.asarray(Image.open(drawn)), before)
