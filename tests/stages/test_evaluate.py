import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tag2mask.data.masks import MaskFile, write_mask
from tag2mask.data.samples import Sample, Split
from tag2mask.engine.environment import Environment
from tag2mask.engine.workspace import Workspace
from tag2mask.errors import DataError
from tag2mask.stages.evaluate import Evaluate, evaluate_labels
from tag2mask.stages.predict import Predict
from tag2mask.stages.seeds import MakeSeeds
from tag2mask.stages.true_masks import true_masks
from tests.builders import shapes_environment
from tests.stages.conftest import Finished


def mask_path(sample: Sample) -> Path:
    assert isinstance(sample.mask, MaskFile)
    return sample.mask.path


def pixels(sample: Sample) -> np.ndarray:
    return np.asarray(Image.open(mask_path(sample)))


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


@pytest.mark.parametrize(("images", "end"), [(1, "on 1 image"), (2, "on 2 images")])
def test_a_headline_tells_of_one_photograph_or_several(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, images: int, end: str
) -> None:
    figures = {"mean_average_precision": 1.0, "mean_iou": 0.5, "pixel_accuracy": 0.5, "images": images}
    for name, after in (("classifier", ""), ("val", " of val")):
        stage = finished.plan.results[name]
        monkeypatch.setattr(type(stage), "metrics", lambda self, env: figures)
        assert f"{stage.headline(finished.env)} ".partition(" (")[0].strip().endswith(end + after)


def test_a_headline_tells_how_much_sparse_labels_cover(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = finished.plan.results["val"]
    figures: dict[str, Any] = {"mean_iou": 0.5, "pixel_accuracy": 0.3, "images": 2, "labelled_precision": 0.75}
    monkeypatch.setattr(type(stage), "metrics", lambda self, env: figures)
    for share, told in (
        (0.4, " with 40.0 % of the pixels labelled, 75.0 % of these right, on 2 images"),
        (1.0, " on 2 images"),
        (None, " on 2 images"),
    ):
        figures["labelled_share"] = share
        assert stage.headline(finished.env).startswith(f"mIoU 50.0, pixel accuracy 30.0{told} of val")
    figures |= {"labelled_share": 0.0, "labelled_precision": None}
    assert " with 0.0 % of the pixels labelled, - % of these right," in stage.headline(finished.env)


def test_scores_are_those_of_the_definition(finished: Finished) -> None:
    env = finished.env
    for labels, name in ((finished.stage(MakeSeeds), "seeds"), (finished.plan.predictions, "val")):
        assert isinstance(labels, MakeSeeds | Predict)
        stage = finished.plan.results[name]
        assert isinstance(stage, Evaluate)
        samples = stage.samples(env)
        truths = [pixels(sample) for sample in samples]
        iou, accuracy = scores_by_loop(truths, [labels.load(env, sample.id) for sample in samples], 3)
        found = stage.metrics(env)
        assert list(found["iou"].values()) == pytest.approx(iou)
        assert list(found["iou"]) == ["background", "disc", "square"]
        assert found["mean_iou"] == pytest.approx(np.mean([value for value in iou if value is not None]))
        assert found["pixel_accuracy"] == pytest.approx(accuracy)
        assert found["images"] == len(samples)
        assert stage.split == labels.split
        assert not {"confusion", "per_image"} & set(found)


def test_each_photograph_has_a_score_of_its_own(finished: Finished) -> None:
    env = finished.env
    stage, labels = finished.plan.results["seeds"], finished.stage(MakeSeeds)
    assert isinstance(stage, Evaluate)
    found = stage.per_image(env)
    assert list(found) == [sample.id for sample in stage.samples(env)]
    for sample in stage.samples(env):
        truth, prediction = pixels(sample), labels.load(env, sample.id)
        iou, _ = scores_by_loop([truth], [prediction], 3)
        assert found[sample.id] == pytest.approx(np.mean([value for value in iou if value is not None]))
    assert len({round(score, 6) for score in found.values() if score is not None}) > 1


def test_the_confusion_matrix_counts_pixels(finished: Finished) -> None:
    env = finished.env
    stage, labels = finished.plan.results["seeds"], finished.stage(MakeSeeds)
    assert isinstance(stage, Evaluate)
    expected = np.zeros((3, 4), int)
    for sample in stage.samples(env):
        for true, predicted in zip(pixels(sample).ravel(), labels.load(env, sample.id).ravel(), strict=True):
            if true != 255:
                expected[true, min(predicted, 3)] += 1
    assert stage.confusion(env) == expected.tolist()


def test_a_photograph_whose_truth_is_unlabelled_has_no_score(tmp_path: Path) -> None:
    env, labels = shapes_environment(tmp_path), true_masks()
    sample = env.dataset.train.samples[1]
    write_mask(mask_path(sample), np.full_like(pixels(sample), 255))
    labels.run(env)
    stage = evaluate_labels(labels)
    stage.run(env)
    scores = stage.per_image(env)
    assert scores.pop(sample.id) is None
    assert set(scores.values()) == {1.0}
    assert stage.metrics(env)["images"] == 6


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
    assert stage.per_image(env) == dict.fromkeys(env.dataset.train.by_id, 1.0)
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
    assert list(stage.per_image(partly)) == [sample.id for sample in rest]


def test_a_truth_of_another_size_is_named(tmp_path: Path) -> None:
    env, labels = shapes_environment(tmp_path), true_masks()
    labels.run(env)
    write_mask(mask_path(env.dataset.train.samples[2]), np.zeros((5, 5), np.uint8))
    with pytest.raises(DataError, match=r"shape_02\.png: 5x5, but its photograph .* has 64x62"):
        evaluate_labels(labels).produce(env)
