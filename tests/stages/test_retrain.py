import dataclasses
from pathlib import Path

import numpy as np
import torch

from tag2mask.data.classes import BACKGROUND
from tag2mask.engine.environment import Environment
from tag2mask.engine.workspace import Workspace
from tag2mask.networks.inference import InferenceSettings
from tag2mask.stages.predict import predict_mask
from tag2mask.stages.retrain import (
    LabelTrainingImages,
    RetrainSettings,
    TrainingLabelSettings,
    label_training_images,
    retrain,
)
from tag2mask.stages.train_segmenter import TrainSegmenter
from tag2mask.stages.views import load_image
from tests.stages.conftest import Finished

SCALES = InferenceSettings(long_side=64, scales=(0.75, 1.0), mirror=False, merge="logits")


def labels(finished: Finished, *, restrict: bool) -> LabelTrainingImages:
    model = finished.plan.model
    assert isinstance(model, TrainSegmenter)
    stage = label_training_images(model, TrainingLabelSettings(SCALES, False, restrict_to_tags=restrict))
    stage.run(finished.env)
    return stage


def test_labels_are_predictions_of_background_and_tagged_classes(finished: Finished) -> None:
    env, stage = finished.env, labels(finished, restrict=True)
    network = stage.segmenter.load(env)
    assert stage.split == "train"
    for sample in stage.samples(env):
        made = stage.load(env, sample.id)
        assert set(np.unique(made)) <= {BACKGROUND, *sample.tags}
        expected = predict_mask(network, load_image(sample), stage.settings, env.runtime, class_ids=sample.tags)
        assert np.array_equal(made, expected)


def test_figures_of_the_labels_say_that_tags_restricted_them(finished: Finished) -> None:
    assert labels(finished, restrict=True).how().startswith(" (tagged classes alone, scales 0.75, 1, without CRF, ")
    assert labels(finished, restrict=False).how().startswith(" (scales 0.75, 1, without CRF, ")


def test_retraining_is_estimated_before_the_first_training_is_there(finished: Finished, tmp_path: Path) -> None:
    settings = RetrainSettings(segmenter=finished.settings.segmenter)
    stage = labels(finished, restrict=True)
    fresh = Environment(finished.env.dataset, Workspace(tmp_path), finished.env.runtime)
    assert retrain(stage.segmenter, stage, settings).estimate(fresh).seconds > 0


def test_labels_can_take_all_classes(finished: Finished) -> None:
    env, stage = finished.env, labels(finished, restrict=False)
    network = stage.segmenter.load(env)
    sample = stage.samples(env)[0]
    expected = predict_mask(network, load_image(sample), stage.settings, env.runtime)
    assert np.array_equal(stage.load(env, sample.id), expected)
    assert stage.fingerprint(env) != labels(finished, restrict=True).fingerprint(env)


def test_retraining_goes_on_or_starts_afresh(finished: Finished) -> None:
    env, stage = finished.env, labels(finished, restrict=True)
    settings = RetrainSettings(segmenter=finished.settings.segmenter)
    goes_on = retrain(stage.segmenter, stage, settings)
    afresh = retrain(stage.segmenter, stage, dataclasses.replace(settings, from_first=False))
    learnt = stage.segmenter.load(env).state_dict()

    def same(training: TrainSegmenter) -> bool:
        return all(
            torch.equal(value, learnt[name]) for name, value in training.system(env).network.state_dict().items()
        )

    assert same(goes_on)
    assert not same(afresh)
    assert goes_on.labels is afresh.labels is stage
