import contextlib
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tag2mask.data.masks import read_mask
from tag2mask.engine.environment import Runtime
from tag2mask.networks.inference import InferenceSettings, bounded_size, normalise, segment
from tag2mask.networks.segmenter import Segmenter
from tag2mask.refine.dense_crf import dense_crf
from tag2mask.stages.memory import Room
from tag2mask.stages.predict import Predict, PredictionSettings, predict_mask, predictions
from tag2mask.stages.train_segmenter import TrainSegmenter
from tag2mask.stages.views import load_image
from tests.stages.conftest import Finished

PLAIN = PredictionSettings(InferenceSettings(long_side=64), use_crf=False)
RUNTIME = Runtime(device="cpu", threads=1).resolved()


@pytest.fixture(scope="module")
def image(finished: Finished) -> Tensor:
    return load_image(finished.env.dataset.train.samples[0])


@pytest.fixture(scope="module")
def network(finished: Finished, image: Tensor) -> Segmenter:
    """The trained network with scores around zero that differ clearly, so that every class wins somewhere."""
    assert isinstance(finished.plan.model, TrainSegmenter)
    loaded = finished.plan.model.load(finished.env)
    last: Any = loaded.head[-1]  # type: ignore[index]
    torch.manual_seed(0)
    torch.nn.init.normal_(last.weight)
    with torch.no_grad():
        last.bias -= loaded(normalise(image, loaded.backbone)[None]).mean((0, 2, 3))
    return loaded


def chances(network: Segmenter, image: Tensor, settings: PredictionSettings) -> Tensor:
    return segment(network, image, settings.inference, torch.device("cpu"), RUNTIME.autocast())


def test_the_likeliest_class_wins(network: Segmenter, image: Tensor) -> None:
    mask = predict_mask(network, image, PLAIN, RUNTIME)
    assert mask.dtype == np.uint8
    assert mask.shape == tuple(image.shape[1:])
    assert len(np.unique(mask)) > 1
    assert np.array_equal(mask, chances(network, image, PLAIN).argmax(0).numpy())


def test_the_crf_refines_probabilities(network: Segmenter, image: Tensor) -> None:
    settings = dataclasses.replace(PLAIN, use_crf=True)
    refined = dense_crf(image.permute(1, 2, 0).numpy(), chances(network, image, PLAIN).numpy())
    mask = predict_mask(network, image, settings, RUNTIME)
    assert np.array_equal(mask, refined.argmax(0))
    assert not np.array_equal(mask, predict_mask(network, image, PLAIN, RUNTIME))


@pytest.mark.parametrize("use_crf", [False, True])
def test_a_mask_can_be_restricted_to_tags(network: Segmenter, image: Tensor, use_crf: bool) -> None:
    settings = dataclasses.replace(PLAIN, use_crf=use_crf)
    for tags in ([2], [1], [2, 1]):
        mask = predict_mask(network, image, settings, RUNTIME, class_ids=tags)
        assert set(np.unique(mask)) <= {0, *tags}
    assert not predict_mask(network, image, settings, RUNTIME, class_ids=[]).any()
    everything = predict_mask(network, image, settings, RUNTIME)
    assert np.array_equal(predict_mask(network, image, settings, RUNTIME, class_ids=[2, 1]), everything)


def test_restricting_keeps_the_order_of_the_rest(network: Segmenter, image: Tensor) -> None:
    p = chances(network, image, PLAIN)
    expected = np.where((p[2] > p[0]).numpy(), 2, 0)
    assert np.array_equal(predict_mask(network, image, PLAIN, RUNTIME, class_ids=[2]), expected)


def test_a_large_photograph_is_refined_smaller_and_brought_back(network: Segmenter, image: Tensor) -> None:
    inference = InferenceSettings(long_side=64, max_pixels=800)
    for use_crf in (False, True):
        settings = PredictionSettings(inference, use_crf=use_crf)
        p = chances(network, image, settings)
        size = tuple(p.shape[1:])
        assert size[0] * size[1] <= 800 < image.shape[1] * image.shape[2]
        if use_crf:
            small = F.interpolate(image[None].float(), size, mode="bilinear", align_corners=False)[0]
            factor = max(size) / max(image.shape[1:])  # widths are in pixels of the whole photograph
            widths = {"gaussian_sxy": 3 * factor, "bilateral_sxy": 80 * factor}
            p = torch.from_numpy(dense_crf(small.round().byte().permute(1, 2, 0).numpy(), p.numpy(), **widths))
        full = F.interpolate(p[None], tuple(image.shape[1:]), mode="bilinear", align_corners=False)[0]
        assert np.array_equal(predict_mask(network, image, settings, RUNTIME), full.argmax(0).numpy())


def test_the_stage_predicts_photographs_of_its_split(finished: Finished) -> None:
    stage, env = finished.plan.predictions, finished.env
    assert isinstance(stage, Predict)
    loaded = stage.segmenter.load(env)
    for sample in stage.samples(env):
        assert sample.tags == ()
        assert sample.mask is None
        expected = predict_mask(loaded, load_image(sample), stage.settings, env.runtime)
        assert np.array_equal(read_mask(stage.path(env, sample.id)), expected)
    train = stage.on("train")
    assert train.split == "train"
    assert train.fingerprint(env) == predictions(stage.segmenter, stage.settings, "train").fingerprint(env)
    assert train.fingerprint(env) != stage.fingerprint(env)


def test_the_crf_costs_time(finished: Finished) -> None:
    stage = finished.plan.predictions
    assert isinstance(stage, Predict)
    without = predictions(stage.segmenter, dataclasses.replace(stage.settings, use_crf=False))
    slow = dataclasses.replace(stage.settings.crf, iterations=300)
    with_crf = predictions(stage.segmenter, dataclasses.replace(stage.settings, crf=slow))
    assert 0 < without.estimate(finished.env).seconds < with_crf.estimate(finished.env).seconds


def test_masks_are_made_where_there_is_room(network: Segmenter, image: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    class Watched(Room):
        def of(self, probabilities: int) -> contextlib.AbstractContextManager[None]:
            taken.append(probabilities)
            return super().of(probabilities)

    monkeypatch.setattr("tag2mask.stages.predict.ROOM", Watched(1))
    small = dataclasses.replace(PLAIN, inference=InferenceSettings(long_side=64, max_pixels=150))
    assert predict_mask(network, image, small, RUNTIME).shape == tuple(image.shape[1:])
    height, width = bounded_size((image.shape[1], image.shape[2]), 150)
    assert taken == [height * width * network.classes]
