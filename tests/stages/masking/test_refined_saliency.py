"""Labels of background and objects from saliency, CAMs and the ground truth."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tag2mask.data.layers import HeatMap
from tag2mask.data.masks import read_mask
from tag2mask.data.resizing import resize_scores
from tag2mask.data.samples import Sample
from tag2mask.errors import SettingsError
from tag2mask.stages.activation_maps import MakeActivationMaps
from tag2mask.stages.masking.refined_saliency import (
    RefinedSaliency,
    SaliencyLabelSettings,
    evaluate_saliency,
    saliency_labels,
)
from tag2mask.stages.saliency_maps import MakeSaliencyMaps, SaliencySettings, saliency_maps
from tests.stages.conftest import Finished, run_with_inputs
from tests.stages.saliency import from_folder, write_maps
from tests.stages.test_labels import mask_path

PLAIN = SaliencyLabelSettings(threshold=0.4, refine=False)
REFINED = SaliencyLabelSettings(threshold=0.4, foreground_above=0.7, background_below=0.6)


@pytest.fixture(scope="module")
def saliency(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> MakeSaliencyMaps:
    """Ramps from left to right in a folder."""
    stage = from_folder(write_maps(tmp_path_factory.mktemp("given") / "maps", finished.env))
    stage.run(finished.env)
    return stage


def made(labels: RefinedSaliency, finished: Finished, sample: Sample) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(labels.open(finished.env)(sample))))


def test_without_refinement_saliency_is_cut_at_the_threshold(finished: Finished, saliency: MakeSaliencyMaps) -> None:
    labels, env = saliency_labels(saliency, finished.stage(MakeActivationMaps), PLAIN), finished.env
    assert labels.inputs == {"saliency": saliency}
    for sample in labels.samples(env):
        assert np.array_equal(made(labels, finished, sample), saliency.load(env, sample.id).numpy() > 0.4)


@pytest.mark.parametrize(("low", "value"), [("unlabelled", 255), ("background", 0), ("keep", 1)])
def test_cams_correct_it(finished: Finished, saliency: MakeSaliencyMaps, low: Any, value: int) -> None:
    cams, env = finished.stage(MakeActivationMaps), finished.env
    settings = SaliencyLabelSettings(0.4, foreground_above=0.7, background_below=0.6, low=low)
    labels = saliency_labels(saliency, cams, settings)
    kinds = set()
    for sample in labels.samples(env):
        maps, salient = cams.load(env, sample.id).at_size(), saliency.load(env, sample.id).numpy() > 0.4
        largest = maps.numpy().max(0) if len(maps) else np.zeros(salient.shape)
        expected = np.where(salient & (largest < 0.6), value, salient | (largest > 0.7))
        found = made(labels, finished, sample)
        assert np.array_equal(found, expected), sample.id
        kinds |= set(zip((largest > 0.7).ravel(), (largest < 0.6).ravel(), salient.ravel(), strict=True))
    assert len(kinds) >= 5


def test_without_a_tag_nothing_is_object(finished: Finished, saliency: MakeSaliencyMaps) -> None:
    (sample,) = (sample for sample in finished.env.samples("train", frozenset({"tags"})) if not sample.tags)
    labels = saliency_labels(saliency, finished.stage(MakeActivationMaps), REFINED)
    found = made(labels, finished, sample)
    assert np.array_equal(found == 255, saliency.load(finished.env, sample.id).numpy() > 0.4)
    assert not (found == 1).any()


def test_small_maps_are_enlarged_before_they_are_cut(finished: Finished, saliency: MakeSaliencyMaps) -> None:
    class Coarse(MakeSaliencyMaps):
        def load(self, env: Any, image_id: str) -> torch.Tensor:
            return torch.tensor([[0.0, 0.3, 0.7, 1.0]])

    labels = saliency_labels(Coarse(saliency.settings, "train"), None, PLAIN)
    sample = labels.samples(finished.env)[0]
    found = made(labels, finished, sample)
    assert found.shape == Image.open(sample.image).size[::-1]
    smooth = resize_scores(torch.tensor([[[[0.0, 0.3, 0.7, 1.0]]]]), (found.shape[0], found.shape[1]))
    assert np.array_equal(found, smooth[0, 0].numpy() > 0.4)
    # Between two cells the cut follows the slope, not the cells' border.
    assert found[0].argmax() not in (0, found.shape[1] // 4, found.shape[1] // 2)


def test_the_ground_truths_open_pixels_stay_open(finished: Finished, tmp_path: Path) -> None:
    env = finished.env
    truth = saliency_maps(SaliencySettings(source="truth"))
    truth.run(env)
    for settings in (PLAIN, REFINED):
        labels = saliency_labels(truth, finished.stage(MakeActivationMaps), settings)
        sample = env.dataset.train.samples[0]
        map_ = read_mask(mask_path(sample)) > 0
        values = truth.load(env, sample.id)
        assert np.array_equal(values.numpy() > 0, map_)
        values[:4] = 0.5
        labels.saliency = type("Open", (type(truth),), {"load": lambda *_, values=values: values})(
            truth.settings, "train"
        )
        found = made(labels, finished, sample)
        assert (found[:4] == 255).all()
        if settings is PLAIN:
            assert np.array_equal(found[4:], map_[4:])


def test_refinement_needs_cams(saliency: MakeSaliencyMaps) -> None:
    with pytest.raises(ValueError, match="refined by CAMs, which are not given"):
        saliency_labels(saliency, None, REFINED)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"threshold": 1.5}, r"saliency_labels\.threshold: 1\.5 must lie between 0 and 1"),
        ({"foreground_above": -0.1}, r"saliency_labels\.foreground_above: -0\.1 must lie"),
        ({"background_below": 2}, r"saliency_labels\.background_below: 2 must lie"),
        ({"low": "void"}, r"unknown saliency_labels\.low 'void'; choices: unlabelled, background, keep"),
    ],
)
def test_impossible_settings(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        SaliencyLabelSettings(**wrong)


def test_scores_picture_and_mark(finished: Finished, saliency: MakeSaliencyMaps) -> None:
    env = finished.env
    labels = saliency_labels(saliency, finished.stage(MakeActivationMaps), REFINED)
    scores = evaluate_saliency(labels)
    run_with_inputs(scores, env)
    both = either = right = given = labelled = pixels = 0
    for sample in env.dataset.train:
        truth, found = read_mask(mask_path(sample)) > 0, labels.load(env, sample.id)
        both += int((truth & (found == 1)).sum())
        # Unlabelled pixels of an object count as missed.
        either += int((truth | (found == 1)).sum())
        given += int((found == 1).sum())
        right += int(truth.sum())
        labelled += int((found != 255).sum())
        pixels += truth.size
    figures = scores.metrics(env)
    assert figures["iou"]["object"] == pytest.approx(both / either)
    assert figures["precision"]["object"] == pytest.approx(both / given)
    assert figures["recall"]["object"] == pytest.approx(both / right)
    assert figures["labelled_share"] == pytest.approx(labelled / pixels)
    assert figures["images"] == 6
    assert "masks of other data" in figures["saliency"]
    json.dumps(figures, allow_nan=False)
    line = scores.headline(env)
    assert line.startswith(f"objects of any class: IoU {100 * both / either:.1f}, precision ")
    assert line.endswith(
        "on 6 images of train (saliency: maps of the folder maps, very likely made with masks of other data)"
    )
    layer = labels.layers(env, "shape_01")[""]
    assert isinstance(layer, HeatMap)
    found = labels.load(env, "shape_01")
    assert np.array_equal(layer.values, np.select([found == 255, found == 1], [0.5, 1.0], 0.0))
    assert scores.reads == {"masks"}
    assert labels.reads == {"images"}
    assert labels.estimate(env).seconds > 0
    assert scores.estimate(env).seconds > 0
