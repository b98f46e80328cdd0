import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tag2mask.data.masks import write_mask
from tag2mask.data.samples import Split
from tag2mask.engine.environment import Environment
from tag2mask.engine.workspace import Workspace
from tag2mask.errors import DataError
from tag2mask.stages.evaluate import Evaluate, evaluate_labels
from tag2mask.stages.make_seeds import MakeSeeds
from tag2mask.stages.predict import Predict
from tag2mask.stages.true_masks import true_masks
from tests.builders import shapes_environment
from tests.stages.conftest import Finished


def pixels(path: Path | None) -> np.ndarray:
    assert path is not None
    return np.asarray(Image.open(path))


def scores_by_loop(truths: list[np.ndarray], predictions: list[np.ndarray], classes: int) -> tuple[list, float]:
    """IoU per class and pixel accuracy, class by class from the definition."""
    truth = np.concatenate([one.ravel() for one in truths])
    prediction = np.concatenate([one.ravel() for one in predictions])
    prediction, truth = prediction[truth != 255], truth[truth != 255]
    iou = []
    for index in range(classes):
        union = ((truth == index) | (prediction == index)).sum()
        iou.append(((truth == index) & (prediction == index)).sum() / union if union else None)
    return iou, float((truth == prediction).mean())


def test_scores_are_those_of_the_definition(finished: Finished) -> None:
    env = finished.env
    for labels, name in ((finished.stage(MakeSeeds), "seeds"), (finished.plan.predictions, "val")):
        assert isinstance(labels, MakeSeeds | Predict)
        stage = finished.plan.results[name]
        assert isinstance(stage, Evaluate)
        samples = stage.samples(env)
        truths = [pixels(sample.mask) for sample in samples]
        iou, accuracy = scores_by_loop(truths, [labels.load(env, sample.id) for sample in samples], 3)
        found = stage.metrics(env)
        assert list(found["iou"].values()) == pytest.approx(iou)
        assert list(found["iou"]) == ["background", "disc", "square"]
        assert found["mean_iou"] == pytest.approx(np.mean([value for value in iou if value is not None]))
        assert found["pixel_accuracy"] == pytest.approx(accuracy)
        assert found["images"] == len(samples)
        assert stage.split == labels.split


def test_true_masks_score_one_and_blocks_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env, labels = shapes_environment(tmp_path), true_masks()
    labels.run(env)
    stage = evaluate_labels(labels)
    stage.run(env)
    whole = stage.metrics(env)
    assert whole["mean_iou"] == 1.0
    assert whole["images"] == 6
    monkeypatch.setattr(Evaluate, "block", 2)
    stage.produce(env)
    assert stage.metrics(env) == whole
    assert stage.estimate(env).seconds > 0


def test_photographs_without_truth_are_left_out(tmp_path: Path) -> None:
    env, labels = shapes_environment(tmp_path), true_masks()
    labels.run(env)
    first, *rest = env.dataset.train.samples
    train = Split("train", (dataclasses.replace(first, mask=None), *rest))
    partly = Environment(dataclasses.replace(env.dataset, train=train), Workspace(tmp_path / "other"), env.runtime)
    stage = evaluate_labels(labels)
    for sample in rest:
        path = labels.path(partly, sample.id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(labels.path(env, sample.id).read_bytes())
    stage.run(partly)
    assert stage.metrics(partly)["images"] == 5


def test_a_truth_of_another_size_is_named(tmp_path: Path) -> None:
    env, labels = shapes_environment(tmp_path), true_masks()
    labels.run(env)
    mask = env.dataset.train.samples[2].mask
    assert mask is not None
    write_mask(mask, np.zeros((5, 5), np.uint8))
    with pytest.raises(DataError, match=r"shape_02\.png: size \(5, 5\)"):
        evaluate_labels(labels).produce(env)
